//! The cases: what each publishes, over what network, what changes on the way, and what must hold afterwards.

use std::time::Duration;

use crate::{
    AudioClipSpec, AudioSource, Change, ClipSpec, LiveSpec, PathOptions, PublishOptions,
    SenderReports, Times, VideoCodec, VideoFormat, VideoSource,
};

/// Something that happens in the middle of a publication.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    /// Stops or resumes sending video and audio.
    Pause { video: bool, audio: bool },
    /// Changes video and audio.
    Change(Option<Change>, Option<Change>),
}

/// Pictures that may be missing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lost {
    /// So many at most.
    AtMost(u64),
    /// They cannot be told apart in this codec, or any number may be missing.
    Any,
}

/// What must hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Sound against picture, in milliseconds.
    pub(super) offset_ms: f64,
    /// Media time from which that is measured.
    pub(super) from: Duration,
    /// Missing pictures.
    pub(super) lost: Lost,
    /// Discontinuities in a playlist.
    pub(super) discontinuities: usize,
    /// FFmpeg may warn: the media itself is damaged where nobody can know.
    pub(super) damaged: bool,
    /// Least time between two keyframe requests, if any are expected.
    pub(super) request_gap_ms: Option<u64>,
}

impl Default for Bounds {
    /// 2 ms from the first picture on, nothing lost, no discontinuity.
    fn default() -> Self {
        Self {
            offset_ms: 2.0,
            from: Duration::ZERO,
            lost: Lost::AtMost(0),
            discontinuities: 0,
            damaged: false,
            request_gap_ms: None,
        }
    }
}

/// One case.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    /// Part of the short selection.
    pub(super) quick: bool,
    /// Length of the media.
    pub(super) length: Duration,
    pub(super) options: PublishOptions,
    /// What happens when, after the connection stands; in order.
    pub(super) script: Vec<(Duration, Action)>,
    pub(super) bounds: Bounds,
}

/// Without reports tracks are aligned by arrival, which includes what senders do before they send.
const BY_ARRIVAL: f64 = 25.0;
/// When there is trouble: latency has been measured before it begins, and pictures have kept still for up to two groups of
/// pictures after it, so that six more seconds later nothing of it is listed any more.
const TROUBLE: (Duration, Duration) = (Duration::from_millis(4500), Duration::from_secs(8));

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn format() -> VideoFormat {
    VideoFormat {
        width: 640,
        height: 360,
        kbps: 900,
        ..VideoFormat::default()
    }
}

fn clip(format: VideoFormat) -> ClipSpec {
    ClipSpec {
        format,
        seconds: 2,
        ..ClipSpec::default()
    }
}

fn case(name: &'static str) -> Case {
    Case {
        name,
        quick: false,
        length: seconds(8.0),
        options: PublishOptions {
            video: Some(VideoSource::Clip(clip(format()))),
            ..PublishOptions::default()
        },
        script: Vec::new(),
        bounds: Bounds::default(),
    }
}

impl Case {
    fn quick(mut self) -> Self {
        self.quick = true;
        self
    }

    fn lasting(mut self, length: f64) -> Self {
        self.length = seconds(length);
        self
    }

    fn with(mut self, change: impl FnOnce(&mut PublishOptions)) -> Self {
        change(&mut self.options);
        self
    }

    fn bound(mut self, change: impl FnOnce(&mut Bounds)) -> Self {
        change(&mut self.bounds);
        self
    }

    fn at(mut self, when: f64, action: Action) -> Self {
        self.script.push((seconds(when), action));
        self
    }

    /// Both tracks meet this while there is trouble.
    fn troubled(self, path: PathOptions) -> Self {
        let path = PathOptions {
            trouble: Some(TROUBLE),
            ..path
        };
        self.lasting(19.0).with(|options| {
            options.video_path = path;
            options.audio_path = path;
        })
    }

    fn video(self, source: VideoSource) -> Self {
        self.with(|options| options.video = Some(source))
    }

    fn audio(self, source: AudioSource) -> Self {
        self.with(|options| options.audio = Some(source))
    }
}

fn every(first: f64, interval: f64) -> SenderReports {
    SenderReports::Every {
        first: seconds(first),
        interval: seconds(interval),
    }
}

/// Every case, in the order of the table.
pub(super) fn all() -> Vec<Case> {
    let mut all = lip_sync();
    all.extend(loss());
    all.extend(changes());
    all.extend(pauses());
    all
}

fn lip_sync() -> Vec<Case> {
    vec![
        case("reports twice a second"),
        case("reports each 5 s").with(|o| o.sender_reports = every(0.0, 5.0)),
        case("no reports of sound")
            .with(|o| o.audio_sender_reports = Some(SenderReports::Off))
            .bound(|b| b.offset_ms = BY_ARRIVAL),
        case("no reports of pictures")
            .with(|o| {
                o.sender_reports = SenderReports::Off;
                o.audio_sender_reports = Some(every(0.0, 0.5));
            })
            .bound(|b| b.offset_ms = BY_ARRIVAL),
        case("no reports at all")
            .with(|o| o.sender_reports = SenderReports::Off)
            .bound(|b| b.offset_ms = BY_ARRIVAL),
        case("bogus reports of sound")
            .with(|o| o.audio_path.clock_error = Duration::from_mins(1))
            .bound(|b| b.offset_ms = BY_ARRIVAL),
        case("reports from 3 s on, sound 100 ms slower")
            .lasting(10.0)
            .with(|o| {
                o.sender_reports = every(3.0, 1.0);
                o.audio_path.delay = Duration::from_millis(100);
            })
            .bound(|b| b.from = seconds(6.5)),
        case("sound starts 1.5 s late")
            .quick()
            .with(|o| o.audio_path.starts_after = seconds(1.5)),
        case("pictures start 1.5 s late").with(|o| o.video_path.starts_after = seconds(1.5)),
        case("sound's path 300 ms slower")
            .quick()
            .with(|o| o.audio_path.delay = Duration::from_millis(300)),
        case("pictures' path 300 ms slower")
            .with(|o| o.video_path.delay = Duration::from_millis(300)),
    ]
}

fn loss() -> Vec<Case> {
    let five = PathOptions {
        loss_percent: 5.0,
        ..PathOptions::default()
    };
    let bursts = PathOptions { burst: 20, ..five };
    let unrepaired = |case: Case| {
        case.with(|o| {
            o.rtx = false;
            o.no_repairs = true;
        })
        .bound(|b| {
            b.lost = Lost::Any;
            // A picture that stands still for more than 2 s, because a keyframe was lost as well, ends in one.
            b.discontinuities = 2;
        })
    };
    let of = |codec| VideoSource::Clip(clip(VideoFormat { codec, ..format() }));
    vec![
        case("5 % loss, repaired on the same SSRC")
            .quick()
            .troubled(five)
            .with(|o| o.rtx = false),
        case("5 % loss, repairs offered over RTX").troubled(five),
        unrepaired(case("5 % loss, not repaired").quick().troubled(five)),
        unrepaired(case("5 % loss, not repaired, keyframes on request").troubled(five))
            .video(VideoSource::Live(LiveSpec {
                format: VideoFormat {
                    keyframe_every: 300,
                    ..format()
                },
                noise: true,
                ..LiveSpec::default()
            }))
            .audio(AudioSource::Live)
            .bound(|b| b.request_gap_ms = Some(950)),
        case("bursts of 20 packets, repaired")
            .troubled(bursts)
            .with(|o| o.rtx = false)
            // Another burst may hit the repairs, too: then the rest of a group of pictures is missing.
            .bound(|b| b.lost = Lost::AtMost(60)),
        unrepaired(case("bursts of 20 packets, not repaired").troubled(bursts)),
        unrepaired(case("H.265, 5 % loss, not repaired").troubled(five))
            .video(of(VideoCodec::H265)),
        unrepaired(case("AV1, 5 % loss, not repaired").troubled(five)).video(of(VideoCodec::Av1)),
        unrepaired(case("VP9, 5 % loss, not repaired").troubled(five)).video(of(VideoCodec::Vp9)),
        case("50 ms jitter").quick().troubled(PathOptions {
            jitter: Duration::from_millis(50),
            ..PathOptions::default()
        }),
        case("10 % reordered").troubled(PathOptions {
            reordered_percent: 10.0,
            ..PathOptions::default()
        }),
        case("20 % duplicated").troubled(PathOptions {
            duplicated_percent: 20.0,
            ..PathOptions::default()
        }),
        case("5 % loss, jitter, reordering, duplicates, repaired")
            .troubled(PathOptions {
                jitter: Duration::from_millis(50),
                reordered_percent: 5.0,
                duplicated_percent: 5.0,
                ..five
            })
            .with(|o| o.rtx = false),
        case("1 % corrupt packets")
            .troubled(PathOptions {
                garbage_percent: 1.0,
                ..PathOptions::default()
            })
            .bound(|b| {
                b.lost = Lost::Any;
                b.damaged = true;
            }),
    ]
}

fn changes() -> Vec<Case> {
    let sized = |width, height| {
        clip(VideoFormat {
            width,
            height,
            ..format()
        })
    };
    let high = |b_frames| {
        clip(VideoFormat {
            high_profile: true,
            b_frames,
            ..format()
        })
    };
    let mono = AudioClipSpec {
        mono: true,
        bits_per_second: 64_000,
        ..AudioClipSpec::default()
    };
    let both = |change| Action::Change(Some(change), Some(change));
    vec![
        case("320x180 to 1280x720")
            .quick()
            .lasting(10.0)
            .video(VideoSource::Sequence(vec![
                sized(320, 180),
                sized(480, 270),
                sized(640, 360),
                sized(960, 540),
                sized(1280, 720),
            ]))
            .bound(|b| b.discontinuities = 4),
        case("H.264 High, offered as baseline").video(VideoSource::Clip(high(0))),
        case("another SPS, the same size")
            .video(VideoSource::Sequence(vec![clip(format()), high(0)]))
            .bound(|b| b.discontinuities = 3),
        case("B-frames").quick().video(VideoSource::Clip(high(2))),
        case("B-frames with times of decoding")
            .video(VideoSource::Clip(ClipSpec {
                times: Times::Decode,
                ..high(2)
            }))
            .bound(|b| b.offset_ms = 101.0),
        case("mono and stereo in turn")
            .audio(AudioSource::Sequence(vec![AudioClipSpec::default(), mono])),
        case("another SSRC of pictures")
            .lasting(10.0)
            .at(5.0, Action::Change(Some(Change::NewSource), None))
            .bound(|b| {
                // Until the next report it goes on by its arrival.
                b.from = seconds(6.5);
                b.discontinuities = 1;
                b.lost = Lost::Any;
            }),
        case("another SSRC of sound")
            .lasting(10.0)
            .at(5.0, Action::Change(None, Some(Change::NewSource)))
            .bound(|b| {
                b.from = seconds(6.5);
                b.discontinuities = 1;
            }),
        case("another SSRC of both")
            .quick()
            .lasting(10.0)
            .at(5.0, both(Change::NewSource))
            .bound(|b| {
                // Until the next report both go on by their arrival.
                b.from = seconds(6.5);
                b.discontinuities = 2;
                b.lost = Lost::Any;
            }),
        case("time stamps jump by 1000 s")
            .lasting(10.0)
            .at(5.0, both(Change::TimestampJump(1000)))
            .bound(|b| {
                // Until the next report both go on by their arrival.
                b.from = seconds(6.5);
                b.discontinuities = 2;
                b.lost = Lost::Any;
            }),
        case("time stamps jump back by 1000 s")
            .lasting(10.0)
            .at(5.0, both(Change::TimestampJump(-1000)))
            .bound(|b| {
                // Until the next report both go on by their arrival.
                b.from = seconds(6.5);
                b.discontinuities = 2;
                b.lost = Lost::Any;
            }),
    ]
}

fn pauses() -> Vec<Case> {
    let pause = |video, audio| Action::Pause { video, audio };
    let go_on = pause(false, false);
    let dtx = AudioSource::Clip(AudioClipSpec {
        dtx: true,
        ..AudioClipSpec::default()
    });
    vec![
        case("discontinuous transmission of sound")
            .quick()
            .audio(dtx),
        case("sound muted for 4 s")
            .quick()
            .lasting(13.0)
            .at(5.0, pause(false, true))
            .at(9.0, go_on),
        case("pictures pause for 1.5 s")
            .lasting(16.0)
            .at(5.0, pause(true, false))
            .at(6.5, go_on),
        case("pictures pause for 5 s")
            .lasting(16.0)
            .at(5.0, pause(true, false))
            .at(10.0, go_on)
            .bound(|b| {
                b.discontinuities = 1;
                b.lost = Lost::Any;
            }),
        case("everything pauses for 1.5 s")
            .lasting(16.0)
            .at(5.0, pause(true, true))
            .at(6.5, go_on),
        case("everything pauses for 5 s")
            .quick()
            .lasting(16.0)
            .at(5.0, pause(true, true))
            .at(10.0, go_on)
            .bound(|b| {
                b.discontinuities = 1;
                b.lost = Lost::Any;
            }),
    ]
}
