//! The WebRTC engine against an independent stack, over real sockets on loopback.

// Helpers of tests are tests as well; the numbers of test packets are small.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::string_slice,
    clippy::cast_possible_truncation
)]

mod publisher;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use publisher::Publisher;
use whipgate::{
    media::{Codec, RtpPacket, SenderReport, TrackIndex},
    transport::{
        Accepted, Connector, EndReason, IceCredentials, PeerObserver, PublishError,
        RemoteCandidate, RemoteCandidates,
        webrtc::{BindError, WebRtc, WebRtcConfig},
    },
};

/// What an observer was told, in order.
#[derive(Debug, PartialEq)]
enum Told {
    Connected,
    Rtp(TrackIndex, RtpPacket),
    Report(TrackIndex, SenderReport),
    Closed(EndReason),
}

#[derive(Default)]
struct Recorder(Mutex<Vec<Told>>);

impl Recorder {
    fn with<T>(&self, look: impl FnOnce(&[Told]) -> T) -> T {
        look(&self.0.lock().unwrap())
    }

    fn packets(&self, track: TrackIndex) -> Vec<RtpPacket> {
        self.with(|told| {
            told.iter()
                .filter_map(|told| match told {
                    Told::Rtp(index, packet) if *index == track => Some(packet.clone()),
                    _ => None,
                })
                .collect()
        })
    }

    fn reports(&self, track: TrackIndex) -> Vec<SenderReport> {
        self.with(|told| {
            told.iter()
                .filter_map(|told| match told {
                    Told::Report(index, report) if *index == track => Some(*report),
                    _ => None,
                })
                .collect()
        })
    }

    fn closed(&self) -> Vec<EndReason> {
        self.with(|told| {
            told.iter()
                .filter_map(|told| match told {
                    Told::Closed(reason) => Some(reason.clone()),
                    _ => None,
                })
                .collect()
        })
    }

    fn push(&self, told: Told) {
        self.0.lock().unwrap().push(told);
    }
}

impl PeerObserver for Recorder {
    fn on_connected(&self) {
        self.push(Told::Connected);
    }

    fn on_rtp(&self, track: TrackIndex, packet: RtpPacket, arrival: Instant) {
        assert!(arrival.elapsed() < Duration::from_secs(5));
        self.push(Told::Rtp(track, packet));
    }

    fn on_sender_report(&self, track: TrackIndex, report: SenderReport, _arrival: Instant) {
        self.push(Told::Report(track, report));
    }

    fn on_closed(&self, reason: EndReason) {
        self.push(Told::Closed(reason));
    }
}

async fn engine(change: impl FnOnce(&mut WebRtcConfig)) -> Arc<WebRtc> {
    let mut config = WebRtcConfig::default();
    change(&mut config);
    WebRtc::bind(config).await.unwrap()
}

async fn connect(engine: &WebRtc, publisher: &mut Publisher) -> (Arc<Recorder>, Accepted) {
    let recorder = Arc::new(Recorder::default());
    let accepted = engine
        .accept(&publisher.offer(), recorder.clone())
        .await
        .unwrap();
    publisher.accept(&accepted.answer);
    publisher.run(|publisher| publisher.connected).await;
    (recorder, accepted)
}

/// Sends `count` packets on both tracks, a pair each few milliseconds.
async fn send(publisher: &mut Publisher, from: u64, count: u64, mark: u8) {
    for number in from..from + count {
        let tick = u32::try_from(number).unwrap();
        let (audio, video) = (publisher.audio, publisher.video);
        publisher.write(audio, number, 960 * tick, &[mark, 1, tick as u8]);
        publisher.write(video, number, 3000 * tick, &[mark, 2, tick as u8]);
        publisher.turn(Duration::from_millis(1)).await;
    }
}

#[track_caller]
fn assert_complete(packets: &[RtpPacket], mark: u8, kind: u8, count: u64) {
    assert_eq!(packets.len() as u64, count);
    for (number, packet) in (0u64..).zip(packets) {
        assert_eq!(packet.sequence_number, number as u16);
        assert_eq!(packet.payload.as_ref(), [mark, kind, number as u8]);
        assert!(packet.marker);
    }
}

#[tokio::test]
async fn media_and_sender_reports_arrive_in_order_on_their_tracks() {
    let engine = engine(|_| {}).await;
    let mut publisher = Publisher::udp().await;
    let (recorder, accepted) = connect(&engine, &mut publisher).await;
    let codecs: Vec<Codec> = accepted.tracks.iter().map(|track| track.codec).collect();
    assert_eq!(codecs, [Codec::Opus, Codec::H264]);

    send(&mut publisher, 0, 100, 7).await;
    let seen = recorder.clone();
    publisher
        .run(move |_| {
            seen.packets(1).len() >= 100
                && !seen.reports(0).is_empty()
                && !seen.reports(1).is_empty()
        })
        .await;
    assert_complete(&recorder.packets(0), 7, 1, 100);
    assert_complete(&recorder.packets(1), 7, 2, 100);
    recorder.with(|told| assert_eq!(told[0], Told::Connected));
    for track in [0, 1] {
        let packet = &recorder.packets(track)[0];
        assert_eq!(packet.payload_type, accepted.tracks[track].payload_type);
        assert_eq!(recorder.reports(track)[0].ssrc, packet.ssrc);
        assert!(recorder.reports(track)[0].ntp != 0);
    }
    let stats = accepted.peer.stats();
    assert_eq!((stats.packets, stats.bytes, stats.lost), (200, 600, 0));
    assert!(stats.remote_address.unwrap().ip().is_loopback());
    engine.shutdown().await;
}

/// OBS sends X.509 version 1, FFmpeg signs with SHA-1 and makes negative serial numbers: the fixture does all three.
#[tokio::test]
async fn nothing_of_a_certificate_counts_but_its_fingerprint() {
    let engine = engine(|_| {}).await;
    let mut publisher = Publisher::with_certificate(
        include_bytes!("fixtures/odd-certificate.der"),
        include_bytes!("fixtures/odd-key.der"),
    )
    .await;
    let (recorder, _accepted) = connect(&engine, &mut publisher).await;
    send(&mut publisher, 0, 10, 1).await;
    publisher.run(|_| recorder.packets(1).len() >= 10).await;
}

#[tokio::test]
async fn two_publishers_share_the_port() {
    let engine = engine(|_| {}).await;
    let (mut one, mut two) = (Publisher::udp().await, Publisher::udp().await);
    let (told_one, _accepted_one) = connect(&engine, &mut one).await;
    let (told_two, _accepted_two) = connect(&engine, &mut two).await;
    for number in 0..50 {
        send(&mut one, number, 1, 1).await;
        send(&mut two, number, 1, 2).await;
    }
    for (publisher, told) in [(&mut one, &told_one), (&mut two, &told_two)] {
        publisher
            .run(|_| told.packets(0).len() + told.packets(1).len() >= 100)
            .await;
    }
    assert_complete(&told_one.packets(1), 1, 2, 50);
    assert_complete(&told_two.packets(1), 2, 2, 50);
}

#[tokio::test]
async fn publishers_come_over_tcp_where_udp_is_blocked() {
    let engine = engine(|config| config.listen_tcp = Some("127.0.0.1:0".parse().unwrap())).await;
    let server = engine.local_tcp_addr().unwrap();
    let mut publisher = Publisher::tcp(server).await;
    let (recorder, accepted) = connect(&engine, &mut publisher).await;
    let candidates: Vec<&str> = accepted
        .answer
        .lines()
        .filter(|line| line.starts_with("a=candidate"))
        .collect();
    assert!(candidates[0].contains(" udp "), "{candidates:?}");
    assert!(
        candidates[1].contains(&format!("{} typ host tcptype passive", server.port())),
        "{candidates:?}"
    );
    send(&mut publisher, 0, 50, 3).await;
    publisher.run(|_| recorder.packets(1).len() >= 50).await;
    assert_complete(&recorder.packets(0), 3, 1, 50);
    assert_complete(&recorder.packets(1), 3, 2, 50);
    // The farewell comes over TCP as well.
    accepted.peer.close().await;
    publisher.run(|publisher| !publisher.is_alive()).await;
    assert!(recorder.closed().is_empty());
}

#[tokio::test]
async fn our_farewell_reaches_the_publisher_at_once() {
    let engine = engine(|_| {}).await;
    let mut publisher = Publisher::udp().await;
    let (recorder, accepted) = connect(&engine, &mut publisher).await;
    let start = Instant::now();
    accepted.peer.close().await;
    publisher.run(|publisher| !publisher.is_alive()).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{start:?}");
    accepted.peer.close().await;
    assert!(recorder.closed().is_empty(), "{:?}", recorder.closed());
}

#[tokio::test]
async fn letting_go_of_the_peer_closes_it() {
    let engine = engine(|_| {}).await;
    let mut publisher = Publisher::udp().await;
    let (_recorder, accepted) = connect(&engine, &mut publisher).await;
    drop(accepted);
    publisher.run(|publisher| !publisher.is_alive()).await;
}

#[tokio::test]
async fn the_publishers_farewell_is_noticed_at_once() {
    let engine = engine(|_| {}).await;
    let mut publisher = Publisher::udp().await;
    let (recorder, _accepted) = connect(&engine, &mut publisher).await;
    send(&mut publisher, 0, 5, 1).await;
    let start = Instant::now();
    publisher.close();
    publisher.run(|_| !recorder.closed().is_empty()).await;
    assert_eq!(recorder.closed(), [EndReason::Disconnected]);
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_silent_publisher_times_out() {
    let engine = engine(|config| config.silence_limit = Duration::from_millis(400)).await;
    let mut publisher = Publisher::udp().await;
    let (recorder, _accepted) = connect(&engine, &mut publisher).await;
    // Media alone keeps it alive well past the limit.
    send(&mut publisher, 0, 400, 1).await;
    assert!(recorder.closed().is_empty(), "{:?}", recorder.closed());
    let deadline = Instant::now() + Duration::from_secs(5);
    while recorder.closed().is_empty() {
        assert!(Instant::now() < deadline, "nobody noticed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(recorder.closed(), [EndReason::TimedOut]);
}

#[tokio::test]
async fn another_certificate_than_announced_delivers_nothing() {
    let engine = engine(|_| {}).await;
    let mut publisher = Publisher::udp().await;
    let recorder = Arc::new(Recorder::default());
    let offer = publisher.offer();
    let position = offer.find("a=fingerprint:sha-256 ").unwrap() + 22;
    let other = if offer[position..].starts_with("00") {
        "11"
    } else {
        "00"
    };
    let forged = offer.replace(
        &offer[position..position + 95],
        &format!("{other}{}", &offer[position + 2..position + 95]),
    );
    let accepted = engine.accept(&forged, recorder.clone()).await.unwrap();
    publisher.accept(&accepted.answer);
    publisher
        .run(|publisher| {
            if publisher.connected && !publisher.failed {
                let (audio, video) = (publisher.audio, publisher.video);
                publisher.write(audio, 1, 1, &[1]);
                publisher.write(video, 1, 1, &[1]);
            }
            !recorder.closed().is_empty()
        })
        .await;
    recorder.with(|told| match told {
        [Told::Closed(EndReason::Failed(text))] => {
            assert!(text.contains("does not match the fingerprint"), "{text}");
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(accepted.peer.stats().packets, 0);
}

#[tokio::test]
async fn keyframes_are_asked_for() {
    let engine = engine(|_| {}).await;
    let mut publisher = Publisher::udp().await;
    let (_recorder, accepted) = connect(&engine, &mut publisher).await;
    // Kept until the track's first packet shows which stream to ask.
    accepted.peer.request_keyframe(1);
    send(&mut publisher, 0, 3, 1).await;
    publisher
        .run(|publisher| {
            accepted.peer.request_keyframe(1);
            publisher.keyframe_requests >= 1
        })
        .await;
    assert!(accepted.peer.stats().plis_sent >= 1);
}

#[tokio::test]
async fn lost_packets_are_asked_for() {
    let engine = engine(|_| {}).await;
    let mut publisher = Publisher::udp().await;
    let (recorder, accepted) = connect(&engine, &mut publisher).await;
    send(&mut publisher, 0, 5, 1).await;
    // A jump of the numbers: 5 to 7 never leave.
    send(&mut publisher, 8, 5, 1).await;
    publisher
        .run(|_| accepted.peer.stats().nacks_sent >= 3 && recorder.packets(1).len() >= 10)
        .await;
    assert_eq!(recorder.packets(1).len(), 10);
}

fn with(ice: IceCredentials) -> RemoteCandidates {
    RemoteCandidates {
        ice: Some(ice),
        ..RemoteCandidates::default()
    }
}

/// Runs until the publisher was asked for a keyframe once more.
async fn hears_us(publisher: &mut Publisher, accepted: &Accepted) {
    let before = publisher.keyframe_requests;
    publisher
        .run(|publisher| {
            accepted.peer.request_keyframe(1);
            publisher.keyframe_requests > before
        })
        .await;
}

#[tokio::test]
async fn media_goes_on_over_an_ice_restart_and_a_change_of_network() {
    let engine = engine(|_| {}).await;
    let mut publisher = Publisher::udp().await;
    let (recorder, accepted) = connect(&engine, &mut publisher).await;
    send(&mut publisher, 0, 50, 7).await;
    let mut ufrags = vec![accepted.ice.ufrag.clone()];
    for round in 1..=4 {
        // What is still queued would be lost on the publisher's side: str0m lets go of its path at once.
        let seen = recorder.clone();
        publisher
            .run(move |_| seen.packets(1).len() as u64 >= round * 50)
            .await;
        // In the even rounds the publisher only restarts; in the odd ones it is on another address as well.
        let theirs = publisher.restart();
        if round % 2 == 1 {
            publisher.move_on().await;
        }
        let restart = accepted.peer.restart_ice(with(theirs)).await.unwrap();
        assert!(!ufrags.contains(&restart.ice.ufrag));
        ufrags.push(restart.ice.ufrag.clone());
        assert_eq!(restart.candidates.len(), 1, "{:?}", restart.candidates);
        publisher.accept_restart(&restart);
        let local = publisher.local();
        publisher
            .run(|publisher| {
                accepted.peer.stats().remote_address == Some(local) && publisher.has_path
            })
            .await;
        send(&mut publisher, round * 50, 50, 7).await;
        hears_us(&mut publisher, &accepted).await;
    }
    let seen = recorder.clone();
    publisher.run(move |_| seen.packets(1).len() >= 250).await;
    assert_complete(&recorder.packets(0), 7, 1, 250);
    assert_complete(&recorder.packets(1), 7, 2, 250);
    assert!(publisher.is_alive() && !publisher.failed);
    assert_eq!(recorder.closed(), []);
    engine.shutdown().await;
}

#[tokio::test]
async fn a_restart_that_comes_to_nothing_leaves_everything_as_it_was() {
    let engine = engine(|_| {}).await;
    let mut publisher = Publisher::udp().await;
    let (recorder, accepted) = connect(&engine, &mut publisher).await;
    send(&mut publisher, 0, 20, 7).await;
    let refused = [RemoteCandidates::default(), {
        let offer = publisher.offer();
        let value = |name: &str| {
            let (_, rest) = offer.split_once(name).unwrap();
            rest.lines().next().unwrap().to_owned()
        };
        with(IceCredentials {
            ufrag: value("a=ice-ufrag:"),
            pwd: value("a=ice-pwd:"),
        })
    }];
    for candidates in refused {
        let error = accepted.peer.restart_ice(candidates).await.unwrap_err();
        assert!(
            matches!(error, PublishError::IceRestartFailed(_)),
            "{error:?}"
        );
    }
    // Answered, but the publisher never hears of it.
    let lost = IceCredentials {
        ufrag: "lost".to_owned(),
        pwd: "0123456789012345678901".to_owned(),
    };
    accepted.peer.restart_ice(with(lost)).await.unwrap();
    send(&mut publisher, 20, 80, 7).await;
    hears_us(&mut publisher, &accepted).await;
    let seen = recorder.clone();
    publisher.run(move |_| seen.packets(1).len() >= 100).await;
    assert_complete(&recorder.packets(1), 7, 2, 100);
    assert_eq!(
        accepted.peer.stats().remote_address,
        Some(publisher.local())
    );
    assert!(publisher.is_alive() && !publisher.failed);
}

#[tokio::test]
async fn useless_candidates_are_dropped_silently() {
    let engine = engine(|_| {}).await;
    let mut publisher = Publisher::udp().await;
    let (_recorder, accepted) = connect(&engine, &mut publisher).await;
    let candidates = [
        "candidate:1 1 udp 2130706431 0a0b.local 3478 typ host",
        "candidate:1 1 tcp 2130706431 192.0.2.1 9 typ host tcptype active",
        "candidate:nonsense",
        "",
        "candidate:1 1 udp 2130706431 127.0.0.1 9 typ host",
    ];
    let candidates = RemoteCandidates {
        candidates: candidates
            .into_iter()
            .map(|candidate| RemoteCandidate {
                mid: None,
                mline_index: Some(0),
                candidate: candidate.to_owned(),
            })
            .collect(),
        end_of_candidates: true,
        ..RemoteCandidates::default()
    };
    accepted.peer.add_candidates(candidates).await.unwrap();
    send(&mut publisher, 0, 3, 1).await;
    assert!(publisher.is_alive());
}

#[tokio::test]
async fn garbage_on_the_port_disturbs_nobody() {
    let engine = engine(|_| {}).await;
    let mut publisher = Publisher::udp().await;
    let (recorder, _accepted) = connect(&engine, &mut publisher).await;
    let stranger = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for number in 0..50u64 {
        for first in [0u8, 1, 20, 22, 63, 64, 128, 144, 200, 255] {
            let mut datagram = vec![first; 3 + usize::try_from(number).unwrap()];
            datagram[1] = number as u8;
            stranger
                .send_to(&datagram, engine.local_udp_addr())
                .await
                .unwrap();
        }
        send(&mut publisher, number, 1, 9).await;
    }
    publisher.run(|_| recorder.packets(1).len() >= 50).await;
    assert_complete(&recorder.packets(1), 9, 2, 50);
}

#[tokio::test]
async fn shutdown_says_goodbye_and_frees_the_ports() {
    let engine = engine(|config| config.listen_tcp = Some("127.0.0.1:0".parse().unwrap())).await;
    let (udp, tcp) = (engine.local_udp_addr(), engine.local_tcp_addr().unwrap());
    let mut publisher = Publisher::udp().await;
    let (_recorder, _accepted) = connect(&engine, &mut publisher).await;
    engine.shutdown().await;
    publisher.run(|publisher| !publisher.is_alive()).await;
    let refused = engine
        .accept(&Publisher::udp().await.offer(), Arc::<Recorder>::default())
        .await;
    assert!(matches!(refused, Err(PublishError::Unavailable(_))));
    let again = WebRtc::bind(WebRtcConfig {
        listen_udp: udp,
        listen_tcp: Some(tcp),
        ..WebRtcConfig::default()
    })
    .await
    .unwrap();
    assert_eq!(again.local_udp_addr(), udp);
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_way_out() {
    let first = engine(|config| config.listen_tcp = Some("127.0.0.1:0".parse().unwrap())).await;
    let bind = |udp: SocketAddr, tcp| {
        WebRtc::bind(WebRtcConfig {
            listen_udp: udp,
            listen_tcp: tcp,
            ..WebRtcConfig::default()
        })
    };
    let error = bind(first.local_udp_addr(), None).await.unwrap_err();
    assert!(matches!(error, BindError::UdpInUse { .. }));
    let text = error.to_string();
    assert!(
        text.contains(&first.local_udp_addr().to_string()) && text.contains("webrtc.listen_udp"),
        "{text}"
    );
    let any = "127.0.0.1:0".parse().unwrap();
    let error = bind(any, first.local_tcp_addr()).await.unwrap_err();
    assert!(error.to_string().contains("webrtc.listen_tcp"), "{error}");
    let foreign = "192.0.2.1:4000".parse().unwrap();
    let error = bind(foreign, None).await.unwrap_err();
    assert!(matches!(error, BindError::Udp { .. }), "{error}");
}

#[tokio::test]
async fn a_wildcard_is_offered_as_real_addresses() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let engine = engine(|config| config.listen_udp = listen.parse().unwrap()).await;
        let publisher = Publisher::udp().await;
        let accepted = engine
            .accept(&publisher.offer(), Arc::<Recorder>::default())
            .await
            .unwrap();
        let port = engine.local_udp_addr().port();
        let candidate = accepted
            .answer
            .lines()
            .find(|line| line.starts_with("a=candidate"))
            .unwrap_or_else(|| panic!("no candidate in {}", accepted.answer));
        assert!(
            candidate.contains(&format!(" {port} typ host")),
            "{candidate}"
        );
        assert!(!candidate.contains(" 0.0.0.0 "), "{candidate}");
    }
}

#[tokio::test]
async fn a_wildcard_socket_answers_from_the_address_it_was_asked_at() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let engine = engine(|config| {
            config.listen_udp = listen.parse().unwrap();
            // Not the address the routing table takes for loopback.
            config.public_addresses = vec!["127.0.0.2".parse().unwrap()];
        })
        .await;
        let mut publisher = Publisher::udp().await;
        let (recorder, accepted) = connect(&engine, &mut publisher).await;
        assert!(accepted.answer.contains(" 127.0.0.2 "));
        send(&mut publisher, 0, 5, 1).await;
        publisher.run(|_| recorder.packets(1).len() >= 5).await;
        let port = engine.local_udp_addr().port();
        let asked = SocketAddr::from(([127, 0, 0, 2], port));
        assert_eq!(publisher.sources.iter().collect::<Vec<_>>(), [&asked]);
    }
}
