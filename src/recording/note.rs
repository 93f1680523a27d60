//! The notes that a recording carries about itself, as JSON in a `uuid` box. Plain data; must not touch the disk.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::boxes;
use crate::media::{InitSegment, MediaKind};

/// What one note says; later notes of a file add to earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// Start of the recording, nanoseconds since 1970; in the first and in the closing note.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_ns: Option<u64>,
    /// Tracks that are described by this note; in the closing note all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tracks: Vec<TrackNote>,
    /// How the recording ended; only in the closing note.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ending>,
}

/// What a note says about a track.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TrackNote {
    /// `track_ID`.
    pub id: u32,
    /// Video or audio.
    pub kind: MediaKind,
    /// RFC 6381 codecs string.
    pub codecs: String,
    /// Width and height in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolution: Option<(u32, u32)>,
}

/// How a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Ending {
    /// The recorder finished it.
    Complete,
    /// A repair finished what a crash left behind.
    Repaired,
}

impl TrackNote {
    /// Describes a track by its init segment.
    pub(super) fn new(id: u32, kind: MediaKind, init: &InitSegment) -> Self {
        Self {
            id,
            kind,
            codecs: init.codecs.clone(),
            resolution: init.resolution,
        }
    }
}

impl Note {
    /// The note as a box.
    pub(super) fn encode(&self) -> Result<Vec<u8>, boxes::Reason> {
        Ok(boxes::encode_uuid(boxes::NOTE, &serde_json::to_vec(self)?)?)
    }

    /// Reads the payload of a note.
    pub(super) fn decode(payload: &[u8]) -> Result<Self, boxes::Reason> {
        Ok(serde_json::from_slice(payload)?)
    }

    /// Takes over what `other` adds.
    pub(super) fn merge(&mut self, other: Self) {
        self.start_ns = self.start_ns.or(other.start_ns);
        self.ended = other.ended.or(self.ended);
        for track in other.tracks {
            if !self.tracks.contains(&track) {
                self.tracks.push(track);
            }
        }
    }

    /// The codecs strings of all tracks, each once, in order of appearance.
    pub(super) fn codecs(&self) -> Vec<String> {
        let mut codecs = Vec::new();
        for track in &self.tracks {
            if !codecs.contains(&track.codecs) {
                codecs.push(track.codecs.clone());
            }
        }
        codecs
    }

    /// The picture size that the recording started with.
    pub(super) fn resolution(&self) -> Option<(u32, u32)> {
        self.tracks.iter().find_map(|track| track.resolution)
    }

    /// Start of the recording.
    pub(super) fn start(&self) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(self.start_ns?))
    }
}

/// Nanoseconds since 1970, 0 for times before.
pub(super) fn unix_nanos(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_back_and_add_up() {
        let track = |id, codecs: &str| TrackNote {
            id,
            kind: MediaKind::Video,
            codecs: codecs.to_owned(),
            resolution: Some((320, 240)),
        };
        let mut first = Note {
            start_ns: Some(5),
            tracks: vec![track(1, "avc1.64001f")],
            ended: None,
        };
        let boxed = first.encode().unwrap();
        assert_eq!(Note::decode(&boxed[24..]).unwrap(), first);
        first.merge(Note {
            start_ns: None,
            tracks: vec![track(1, "avc1.64001f"), track(1, "avc1.640028")],
            ended: Some(Ending::Repaired),
        });
        assert_eq!(first.codecs(), ["avc1.64001f", "avc1.640028"]);
        assert_eq!(first.ended, Some(Ending::Repaired));
        assert_eq!(first.start_ns, Some(5));
    }
}
