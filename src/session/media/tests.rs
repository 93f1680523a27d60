use std::{fs, sync::mpsc};

use bytes::Bytes;

use super::{
    super::worker::{Mailbox, Workers},
    *,
};
use crate::{
    media::{Codec, RtpPacket},
    pipeline,
    transport::PublishOptions,
};

/// Takes so many packets and then no more, for ever: the queue's consumer sleeps for an hour.
const HANGS: &str = "tee name=fork fork. ! rtpopusdepay ! whipgatemux name=mux \
    fork. ! queue max-size-buffers=50 max-size-bytes=0 max-size-time=0 ! identity sleep-time=3600000000 \
    ! fakesink async=false sync=false";

const PACKET: Duration = Duration::from_millis(20);

fn settings() -> Arc<Settings> {
    let hls = hls::Settings::default();
    Arc::new(Settings {
        publish: PublishOptions::default(),
        pipeline: pipeline::Settings {
            part_duration: hls.part_duration,
            segment_duration: hls.segment_duration,
            track_id: 1,
        },
        keyframe_interval: hls.segment_duration,
        hls,
        reconnect_grace: Duration::from_secs(15),
        checkpoints: None,
        max_sessions: 2,
        known_sessions: Vec::new(),
        workers: 1,
    })
}

fn pipelines(opus: Option<&str>) -> Arc<Pipelines> {
    let dir = tempfile::tempdir().unwrap();
    if let Some(text) = opus {
        fs::write(dir.path().join("opus.launch"), text).unwrap();
    }
    Arc::new(Pipelines::load(Some(dir.path())).unwrap())
}

/// A session without a transport.
struct Session {
    board: Arc<Board>,
    mailbox: Mailbox<Media>,
    publication: PublicationId,
    sent: u16,
}

impl Session {
    /// `relieved` is told of each successor.
    fn new(
        workers: &Workers,
        name: &str,
        pipelines: &Arc<Pipelines>,
        relieved: mpsc::Sender<bool>,
    ) -> Self {
        let id: SessionId = name.parse().unwrap();
        let board = Arc::new(Board::new(id.clone(), None));
        let (settings, metrics) = (settings(), Metrics::new());
        let media = Media::new(
            id.clone(),
            Arc::clone(&settings),
            Arc::clone(pipelines),
            None,
            Arc::clone(&metrics),
            Arc::clone(&board),
        );
        let (its_board, pipelines) = (Arc::clone(&board), Arc::clone(pipelines));
        let mailbox = workers.spawn(media, 1000, move |_| {
            let successor = Media::succeed(
                id.clone(),
                Arc::clone(&settings),
                Arc::clone(&pipelines),
                None,
                Arc::clone(&metrics),
                Arc::clone(&its_board),
                false,
            );
            relieved.send(successor.is_some()).unwrap();
            successor
        });
        let publication = "00000000000000000000000000000001".parse().unwrap();
        let track = TrackInfo {
            codec: Codec::Opus,
            payload_type: 111,
            clock_rate: 48_000,
            channels: 2,
            fmtp: String::new(),
            mid: "0".to_owned(),
        };
        mailbox.send(Event::Publish(PublishEvent::Started {
            publication,
            tracks: vec![track].into(),
        }));
        Self {
            board,
            mailbox,
            publication,
            sent: 0,
        }
    }

    fn packet(&mut self, timestamp: u32) {
        let packet = RtpPacket {
            payload_type: 111,
            marker: false,
            sequence_number: self.sent,
            timestamp,
            ssrc: 7,
            // A stereo frame of 20 ms, and the rest of it is nobody's business here.
            payload: Bytes::from_static(&[0xfc, 0xff, 0xfe]),
        };
        self.sent += 1;
        assert!(self.mailbox.offer(Event::Publish(PublishEvent::Rtp {
            publication: self.publication,
            track: 0,
            packet,
            arrival: Instant::now(),
        })));
    }

    /// Parts so far and the discontinuities between them.
    fn parts(&self) -> (u64, u64) {
        let board = self.board.lock();
        let status = board.stream.as_ref().map(hls::Stream::status);
        status
            .and_then(|status| status.renditions.first().cloned())
            .map_or((0, 0), |r| (r.parts_total, r.discontinuities))
    }

    fn findings(&self) -> String {
        self.board.lock().status.findings.join("\n")
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pace of a publisher, not a wait for anything"
)]
fn pace() {
    std::thread::sleep(PACKET);
}

/// Sends a packet to each session every 20 ms until `done`, for 30 s at most.
fn publish(sessions: &mut [Session], mut done: impl FnMut(&[Session]) -> bool) {
    for _ in 0..1500 {
        for session in &mut *sessions {
            session.packet(u32::from(session.sent) * 960);
        }
        if done(sessions) {
            return;
        }
        pace();
    }
    panic!(
        "not within 30 s: {:?}",
        sessions.iter().map(Session::parts).collect::<Vec<_>>()
    );
}

#[test]
fn pipelines_that_hang_are_replaced_at_a_discontinuity_and_the_neighbour_goes_on() {
    let workers = Workers::start(1, Duration::from_millis(500)).unwrap();
    let (relieved, told) = mpsc::channel();
    let mut sessions = [
        Session::new(&workers, "hangs", &pipelines(Some(HANGS)), relieved.clone()),
        Session::new(&workers, "good", &pipelines(None), relieved),
    ];
    publish(&mut sessions, |_| told.try_recv().is_ok());
    let (before, _) = sessions[0].parts();
    assert!(before > 0, "something came out before it hung");
    // The same playlist goes on.
    publish(&mut sessions, |sessions| {
        let (parts, discontinuities) = sessions[0].parts();
        parts > before + 1 && discontinuities == 1
    });
    assert!(
        sessions[0].findings().contains("replaced 1 time"),
        "{}",
        sessions[0].findings()
    );
    assert_eq!(workers.stuck(), 1);

    // It hangs each time, so in the end the session does.
    let mut successors = 1;
    publish(&mut sessions, |_| match told.try_recv() {
        Ok(true) => {
            successors += 1;
            false
        }
        Ok(false) => true,
        Err(_) => false,
    });
    assert_eq!(successors, MAX_SUCCESSORS);
    assert_eq!(sessions[0].board.lock().status.state, State::Failed);
    assert!(sessions[0].findings().contains("do not return"));

    let (parts, discontinuities) = sessions[1].parts();
    assert_eq!(discontinuities, 0);
    // All that was sent comes out, but for what is still in the timeline's and the part's hands.
    let sent = PACKET * u32::from(sessions[1].sent);
    let came = Duration::from_millis(200) * u32::try_from(parts).unwrap();
    assert!(came + Duration::from_secs(3) > sent, "{came:?} of {sent:?}");
}

#[test]
fn timestamps_that_jump_all_the_time_cost_their_track() {
    let workers = Workers::start(1, Duration::from_mins(1)).unwrap();
    let (relieved, _told) = mpsc::channel();
    let mut session = Session::new(&workers, "jumps", &pipelines(None), relieved);
    for _ in 0..1500 {
        // Ten minutes forward each tenth of a second.
        session.packet(u32::from(session.sent) * 960 + u32::from(session.sent / 5) * 28_800_000);
        if session.findings().contains("it is left out") {
            return;
        }
        pace();
    }
    panic!("nothing was said within 30 s: {}", session.findings());
}
