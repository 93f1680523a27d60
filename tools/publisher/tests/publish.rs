//! The client against a real str0m endpoint in this process: negotiation, media, clocks, repair, ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::string_slice,
    reason = "a test ends where its script does not hold"
)]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use whipgate_publisher::{
    AudioClipSpec, AudioSource, ClipSpec, Ended, LiveSpec, PathOptions, PublishOptions, Publisher,
    SenderReports, VideoCodec, VideoFormat, VideoSource,
    receiver::{Received, Receiver, ReceiverOptions},
    stamp, whip,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn small(codec: VideoCodec) -> ClipSpec {
    let format = VideoFormat {
        codec,
        width: 320,
        height: 180,
        kbps: 300,
        keyframe_every: 30,
        ..VideoFormat::default()
    };
    ClipSpec {
        format,
        seconds: 1,
        ..ClipSpec::default()
    }
}

fn options(receiver: &Receiver, codec: VideoCodec) -> PublishOptions {
    PublishOptions {
        url: receiver.url(),
        video: Some(VideoSource::Clip(small(codec))),
        ..PublishOptions::default()
    }
}

/// What arrives until `enough` says so.
async fn collect(
    receiver: &mut Receiver,
    mut enough: impl FnMut(&[Received]) -> bool,
) -> Vec<Received> {
    let mut all = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while !enough(&all) {
        let next = tokio::time::timeout_at(deadline.into(), receiver.next()).await;
        all.push(
            next.expect("nothing more arrives")
                .expect("the receiver has ended"),
        );
    }
    all
}

fn units(received: &[Received], video: bool) -> Vec<(u64, &[u8], bool)> {
    received
        .iter()
        .filter_map(|received| match received {
            Received::Unit {
                kind,
                timestamp,
                data,
                contiguous,
            } if kind.is_video() == video => Some((*timestamp, &data[..], *contiguous)),
            _ => None,
        })
        .collect()
}

fn pictures(received: &[Received]) -> Vec<u32> {
    units(received, true)
        .iter()
        .flat_map(|(_, data, _)| stamp::find_all(data))
        .map(|stamp| stamp.picture)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_stamped_pictures_and_sound_and_stops() {
    let mut receiver = Receiver::start(ReceiverOptions::default()).await.unwrap();
    let publisher = Publisher::start(PublishOptions {
        stamp: Some(77),
        first_sequence_number: Some(65_530),
        first_timestamp: Some(u32::MAX - 10_000),
        ..options(&receiver, VideoCodec::H264)
    })
    .await
    .unwrap();
    assert_eq!(publisher.etag(), Some("\"1\""));
    let received = collect(&mut receiver, |all| {
        units(all, true).len() >= 45 && units(all, false).len() >= 70
    })
    .await;

    let video = units(&received, true);
    assert!(
        video.windows(2).all(|pair| pair[1].0 - pair[0].0 == 3000),
        "one tick of 1/30 s between pictures"
    );
    assert!(
        video
            .iter()
            .all(|(_, data, _)| data.starts_with(&[0, 0, 0, 1]))
    );
    let stamps: Vec<_> = video
        .iter()
        .flat_map(|(_, data, _)| stamp::find_all(data))
        .collect();
    assert_eq!(stamps.len(), video.len(), "each picture has its stamp");
    assert!(
        stamps
            .iter()
            .enumerate()
            .all(|(index, stamp)| stamp.picture == index as u32 && stamp.publication == 77)
    );
    assert!(stamps.last().unwrap().age(SystemTime::now()) < Duration::from_secs(2));
    let audio = units(&received, false);
    assert!(audio.windows(2).all(|pair| pair[1].0 - pair[0].0 == 960));

    let stats = publisher.stop().await.unwrap();
    assert!(stats.packets > 100 && stats.connected_ms > 0.0 && stats.lost == 0);
    let end = collect(&mut receiver, |all| {
        all.iter().any(|event| matches!(event, Received::Closed))
    })
    .await;
    assert!(end.iter().any(|event| matches!(event, Received::Deleted)));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_codec_arrives_as_it_was_encoded() {
    for codec in VideoCodec::ALL {
        let mut receiver = Receiver::start(ReceiverOptions {
            codec,
            ..ReceiverOptions::default()
        })
        .await
        .unwrap();
        let options = PublishOptions {
            audio: None,
            stamp: None,
            ..options(&receiver, codec)
        };
        let publisher = Publisher::start(options).await.unwrap();
        let received = collect(&mut receiver, |all| units(all, true).len() >= 30).await;
        let clip = whipgate_publisher::clip::Clip::video(&small(codec)).unwrap();
        // str0m 0.24 ends a picture of H.265 wherever a fragmented unit ends: put together what has one time stamp.
        let mut pictures: Vec<(u64, Vec<u8>)> = Vec::new();
        for (timestamp, data, contiguous) in units(&received, true) {
            assert!(contiguous, "{codec}");
            match pictures.last_mut().filter(|(last, _)| *last == timestamp) {
                Some((_, picture)) => picture.extend_from_slice(data),
                None => pictures.push((timestamp, data.to_vec())),
            }
        }
        pictures.pop();
        for ((_, data), unit) in pictures.iter().zip(&clip.units) {
            for piece in &unit.pieces {
                // str0m gives AV1 back with size fields: look for what follows the OBU header.
                let needle = if codec == VideoCodec::Av1 {
                    &piece[1..]
                } else {
                    &piece[..]
                };
                assert!(
                    data.windows(needle.len()).any(|window| window == needle),
                    "{codec}: a piece is missing"
                );
            }
        }
        publisher.stop().await.unwrap();
    }
}

/// NTP and RTP time of the sender reports of one track.
fn reports(received: &[Received], video: bool) -> Vec<(SystemTime, u32)> {
    received
        .iter()
        .filter_map(|event| match event {
            Received::SenderReport {
                kind,
                ntp,
                timestamp,
            } if kind.is_video() == video => Some((*ntp, *timestamp)),
            _ => None,
        })
        .collect()
}

/// All reports of both tracks agree on when media time zero was.
fn assert_one_clock(received: &[Received], first_timestamp: u32) {
    let zero = |video: bool, rate: f64| -> Vec<f64> {
        reports(received, video)
            .into_iter()
            .map(|(ntp, timestamp)| {
                let wall = ntp.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
                wall - f64::from(timestamp.wrapping_sub(first_timestamp)) / rate
            })
            .collect()
    };
    let (video, audio) = (zero(true, 90_000.0), zero(false, 48_000.0));
    for other in video.iter().chain(&audio) {
        assert!((other - video[0]).abs() < 0.0005, "{video:?} {audio:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sender_reports_put_both_tracks_on_one_clock() {
    let mut receiver = Receiver::start(ReceiverOptions::default()).await.unwrap();
    let offset = 1_000_000u32;
    let publisher = Publisher::start(PublishOptions {
        first_timestamp: Some(offset),
        audio_path: PathOptions {
            starts_after: Duration::from_millis(700),
            ..PathOptions::default()
        },
        ..options(&receiver, VideoCodec::H264)
    })
    .await
    .unwrap();
    let received = collect(&mut receiver, |all| {
        reports(all, true).len() >= 5 && reports(all, false).len() >= 3
    })
    .await;
    assert_one_clock(&received, offset);
    let first_video = received
        .iter()
        .position(|event| matches!(event, Received::Unit { kind, .. } if kind.is_video()));
    let first_report = received
        .iter()
        .position(|event| matches!(event, Received::SenderReport { .. }));
    assert!(first_report > first_video, "no report precedes the media");
    let first_audio = units(&received, false)[0].0;
    let late = (first_audio - u64::from(offset)) as f64 / 48_000.0;
    assert!(
        (0.7..0.75).contains(&late),
        "audio starts late, with the time stamps of its time: {late}"
    );
    publisher.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_packets_are_repaired_with_and_without_rtx() {
    for rtx in [true, false] {
        let mut receiver = Receiver::start(ReceiverOptions {
            rtx,
            ..ReceiverOptions::default()
        })
        .await
        .unwrap();
        let publisher = Publisher::start(PublishOptions {
            audio: None,
            video_path: PathOptions {
                loss_percent: 3.0,
                ..PathOptions::default()
            },
            ..options(&receiver, VideoCodec::H264)
        })
        .await
        .unwrap();
        let received = collect(&mut receiver, |all| pictures(all).len() >= 120).await;
        let stats = publisher.stop().await.unwrap();
        assert!(
            stats.lost > 0 && stats.nacked > 0 && stats.retransmitted > 0,
            "rtx {rtx}: {stats:?}"
        );
        let seen: BTreeSet<u32> = pictures(&received).into_iter().collect();
        let missing = (0..100).filter(|picture| !seen.contains(picture)).count();
        assert_eq!(missing, 0, "rtx {rtx}: {stats:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_source_answers_keyframe_requests_in_time() {
    let mut receiver = Receiver::start(ReceiverOptions::default()).await.unwrap();
    let format = VideoFormat {
        width: 320,
        height: 180,
        kbps: 300,
        keyframe_every: 300,
        ..VideoFormat::default()
    };
    let publisher = Publisher::start(PublishOptions {
        video: Some(VideoSource::Live(LiveSpec {
            format,
            ..LiveSpec::default()
        })),
        audio: Some(AudioSource::Live),
        first_timestamp: Some(5_000),
        ..options(&receiver, VideoCodec::H264)
    })
    .await
    .unwrap();
    let keyframes = |all: &[Received]| {
        let idr = |data: &[u8]| {
            data.windows(4)
                .any(|bytes| bytes[..3] == [0, 0, 1] && bytes[3] & 0x1f == 5)
        };
        units(all, true)
            .iter()
            .filter(|(_, data, _)| idr(data))
            .count()
    };
    let first = collect(&mut receiver, |all| {
        units(all, true).len() >= 20 && units(all, false).len() >= 20
    })
    .await;
    assert!(keyframes(&first) >= 1);
    let begin = |video: bool, rate: u64| (units(&first, video)[0].0 - 5_000) as f64 / rate as f64;
    let apart = (begin(true, 90_000) - begin(false, 48_000)).abs();
    assert!(
        apart < 0.5,
        "both tracks begin together, not at the next regular keyframe: {apart}"
    );
    assert!(keyframes(&first[..1.max(first.len() / 4)]) <= 1);
    receiver.request_keyframe().await;
    let asked = Instant::now();
    collect(&mut receiver, |all| keyframes(all) >= 1).await;
    assert!(
        asked.elapsed() < Duration::from_secs(3),
        "a keyframe follows the request"
    );
    assert!(publisher.stats().keyframe_requests >= 1);
    let timed = collect(&mut receiver, |all| {
        reports(all, true).len() >= 2 && reports(all, false).len() >= 2
    })
    .await;
    assert_one_clock(&timed, 5_000);
    publisher.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_are_told_apart() {
    let mut receiver = Receiver::start(ReceiverOptions::default()).await.unwrap();
    let publisher = Publisher::start(options(&receiver, VideoCodec::H264))
        .await
        .unwrap();
    collect(&mut receiver, |all| !units(all, true).is_empty()).await;
    receiver.close().await;
    let ended = tokio::time::timeout(PATIENCE, publisher.wait_ended())
        .await
        .unwrap();
    assert_eq!(ended, Ended::Remote);

    let publisher = Publisher::start(options(&receiver, VideoCodec::H264))
        .await
        .unwrap();
    publisher.hang_up().await;
    let events = collect(&mut receiver, |all| {
        all.iter().any(|event| matches!(event, Received::Closed))
    })
    .await;
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, Received::Deleted))
    );

    let publisher = Publisher::start(options(&receiver, VideoCodec::H264))
        .await
        .unwrap();
    collect(&mut receiver, |all| !units(all, true).is_empty()).await;
    publisher.vanish();
    let silence = async {
        while let Some(event) = receiver.next().await {
            assert!(
                !matches!(event, Received::Closed | Received::Deleted),
                "vanishing tells nobody"
            );
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(1), silence)
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_network_is_as_bad_as_asked() {
    let mut receiver = Receiver::start(ReceiverOptions::default()).await.unwrap();
    let publisher = Publisher::start(PublishOptions {
        sender_reports: SenderReports::Off,
        audio: Some(AudioSource::Clip(AudioClipSpec::default())),
        audio_path: PathOptions {
            delay: Duration::from_millis(400),
            ..PathOptions::default()
        },
        video_path: PathOptions {
            garbage_percent: 100.0,
            ..PathOptions::default()
        },
        ..options(&receiver, VideoCodec::H264)
    })
    .await
    .unwrap();
    let connected = Instant::now();
    let received = collect(&mut receiver, |all| units(all, false).len() >= 25).await;
    assert!(
        connected.elapsed() >= Duration::from_millis(850),
        "25 packets of 20 ms, 400 ms late"
    );
    assert!(pictures(&received).is_empty(), "garbage holds no stamps");
    assert!(
        !received
            .iter()
            .any(|event| matches!(event, Received::SenderReport { .. }))
    );
    assert!(publisher.stats().packets > 0);
    assert_eq!(publisher.stats().sender_reports, 0);
    publisher.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_with_its_status() {
    let receiver = Receiver::start(ReceiverOptions {
        token: Some("right".into()),
        ..ReceiverOptions::default()
    })
    .await
    .unwrap();
    let refused = Publisher::start(options(&receiver, VideoCodec::H264))
        .await
        .unwrap_err();
    assert_eq!(refused.downcast_ref::<whip::Refused>().unwrap().status, 401);
    let allowed = PublishOptions {
        token: Some("right".into()),
        ..options(&receiver, VideoCodec::H264)
    };
    Publisher::start(allowed)
        .await
        .unwrap()
        .stop()
        .await
        .unwrap();
}
