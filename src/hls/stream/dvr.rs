//! What a stream whose playlists go back to its beginning has to be told, and how long it is of use.

use std::{
    fs::File,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use super::Stream;
use crate::{hls::rendition::Rendition, media::FileRange};

impl Stream {
    /// Says under which path `file`, in which parts are going to lie ([`Self::offload`]), can be opened again at any time:
    /// that is how segments are read that only a DVR playlist still lists. The path must never stand for another file.
    pub fn recorded_in(&self, file: &Arc<File>, path: &Path) {
        let mut state = self.0.lock();
        state.files.retain(|(known, _)| known.strong_count() > 0);
        state.files.push((Arc::downgrade(file), path.into()));
    }

    /// How long after its end a stream is kept: see [`reach`](crate::hls::Settings::reach) of its settings. With
    /// [`dvr`](crate::hls::Settings::dvr) for as long as it takes to watch it from the beginning, if that is longer.
    pub fn reach(&self) -> Duration {
        let state = self.0.lock();
        let longest = state.renditions.iter().filter_map(Rendition::dvr_duration);
        longest
            .max()
            .unwrap_or_default()
            .max(self.0.settings.reach())
    }
}

/// The path of the file that a range lies in.
pub(super) fn path_of(files: &[(Weak<File>, Arc<Path>)], range: &FileRange) -> Option<Arc<Path>> {
    files
        .iter()
        .find(|(file, _)| std::ptr::eq(file.as_ptr(), Arc::as_ptr(&range.file)))
        .map(|(_, path)| Arc::clone(path))
}
