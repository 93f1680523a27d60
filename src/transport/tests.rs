//! The rules of [`PublishTransport`], driven by a fake connector on paused time.

use std::{
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    fake::{ANSWER, Events, FakeConnector, FakePeer},
    *,
};
use crate::media::{RtpPacket, TrackIndex};

const OFFER: &str = "v=0\r\n";

struct Bench {
    connector: Arc<FakeConnector>,
    events: Arc<Events>,
    transport: Arc<PublishTransport>,
}

fn bench(on_conflict: OnConflict) -> Bench {
    let connector = Arc::new(FakeConnector::default());
    let events = Arc::new(Events::default());
    let options = PublishOptions {
        on_conflict,
        ..PublishOptions::default()
    };
    Bench {
        transport: PublishTransport::new(
            Arc::clone(&connector) as _,
            Arc::clone(&events) as _,
            options,
        ),
        connector,
        events,
    }
}

impl Bench {
    /// A publisher that connected and sent one packet.
    async fn live(&self) -> (Publication, Arc<FakePeer>) {
        let publication = self.transport.publish(OFFER).await.unwrap();
        let peer = self.connector.peer();
        peer.connect();
        peer.send(1);
        (publication, peer)
    }

    fn publish_in_task(
        &self,
    ) -> tokio::task::JoinHandle<(Duration, Result<Publication, PublishError>)> {
        let transport = Arc::clone(&self.transport);
        tokio::spawn(async move {
            let start = Instant::now();
            let result = transport.publish(OFFER).await;
            (start.elapsed(), result)
        })
    }
}

/// Sends a packet each 20 ms until the task is aborted.
fn keep_sending(peer: Arc<FakePeer>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        for number in 2.. {
            sleep(Duration::from_millis(20)).await;
            peer.send(number);
        }
    })
}

/// Lets every task that can run do so; paused time moves by a millisecond.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_publication_from_offer_to_delete() {
    let bench = bench(OnConflict::Probe);
    assert!(bench.transport.current().is_none());
    let publication = bench.transport.publish(OFFER).await.unwrap();
    assert_eq!(publication.answer, ANSWER);
    assert_eq!(publication.tracks.len(), 2);
    let info = bench.transport.current().unwrap();
    assert_eq!(
        (info.id, info.connected, info.last_rtp),
        (publication.id, false, None)
    );
    assert!(
        bench.events.words().is_empty(),
        "nothing before the connection"
    );

    let peer = bench.connector.peer();
    peer.connect();
    peer.connect();
    peer.send(1);
    peer.report();
    let info = bench.transport.current().unwrap();
    assert!(info.connected && info.last_rtp.is_some());
    assert_eq!(info.stats.packets, 7);

    let id = Some(publication.id);
    bench
        .transport
        .delete(id, EndReason::Deleted)
        .await
        .unwrap();
    assert!(peer.is_closed(), "the close is through within its time");
    assert!(bench.transport.current().is_none());
    assert!(matches!(
        bench.transport.delete(id, EndReason::Deleted).await,
        Err(PublishError::UnknownPublication)
    ));

    peer.send(2);
    peer.report();
    peer.connect();
    peer.disconnect();
    assert_eq!(
        bench.events.words(),
        ["0 start", "0 rtp 1", "0 report", "0 end Deleted"]
    );
}

#[tokio::test(start_paused = true)]
async fn media_before_the_news_of_the_connection_starts_the_publication() {
    let bench = bench(OnConflict::Probe);
    bench.transport.publish(OFFER).await.unwrap();
    bench.connector.peer().send(1);
    bench.connector.peer().connect();
    assert_eq!(bench.events.words(), ["0 start", "0 rtp 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_quicker_than_its_answer_starts_once_it_is_in_place() {
    let bench = bench(OnConflict::Probe);
    bench.connector.connects_early.store(true, Ordering::SeqCst);
    bench.transport.publish(OFFER).await.unwrap();
    bench.connector.peer().send(1);
    assert_eq!(bench.events.words(), ["0 start", "0 rtp 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_breaks_while_it_is_made_frees_the_place() {
    let bench = bench(OnConflict::Reject);
    for early in [false, true] {
        bench
            .connector
            .connects_early
            .store(early, Ordering::SeqCst);
        bench.connector.breaks_early.store(true, Ordering::SeqCst);
        assert!(matches!(
            bench.transport.publish(OFFER).await,
            Err(PublishError::Unavailable(_))
        ));
    }
    settle().await;
    assert!(bench.connector.peers().iter().all(|peer| peer.is_closed()));
    assert!(bench.events.words().is_empty());
    bench.connector.breaks_early.store(false, Ordering::SeqCst);
    bench.transport.publish(OFFER).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn probe_holds_an_offer_and_refuses_it_while_media_flows() {
    let bench = bench(OnConflict::Probe);
    let (first, peer) = bench.live().await;
    let sending = keep_sending(Arc::clone(&peer));
    let (took, result) = bench.publish_in_task().await.unwrap();
    assert!(matches!(
        result,
        Err(PublishError::Conflict { retry_after }) if retry_after == Duration::from_secs(2)
    ));
    assert!(
        took >= Duration::from_secs(3) && took < Duration::from_millis(3100),
        "held for {took:?}"
    );
    assert_eq!(bench.transport.current().unwrap().id, first.id);
    assert_eq!(bench.connector.peers().len(), 1, "nothing was negotiated");
    sending.abort();
}

#[tokio::test(start_paused = true)]
async fn probe_lets_a_held_offer_in_when_media_stops() {
    let bench = bench(OnConflict::Probe);
    let (_, old) = bench.live().await;
    let sending = keep_sending(Arc::clone(&old));
    let held = bench.publish_in_task();
    sleep(Duration::from_millis(500)).await;
    sending.abort();
    let (took, result) = held.await.unwrap();
    let second = result.unwrap();
    assert!(
        took >= Duration::from_millis(2400) && took < Duration::from_millis(2600),
        "in after {took:?}"
    );
    assert_eq!(bench.transport.current().unwrap().id, second.id);
    bench.connector.peer().connect();
    old.send(9);
    bench.connector.peer().send(1);
    settle().await;
    assert!(old.is_closed());
    let words = bench.events.words();
    assert_eq!(
        words[words.len() - 3..],
        ["0 end Replaced", "1 start", "1 rtp 1"]
    );
}

#[tokio::test(start_paused = true)]
async fn probe_lets_a_held_offer_in_at_once_when_the_publisher_leaves() {
    let bench = bench(OnConflict::Probe);
    let (_, peer) = bench.live().await;
    let sending = keep_sending(Arc::clone(&peer));
    let held = bench.publish_in_task();
    sleep(Duration::from_millis(700)).await;
    sending.abort();
    peer.disconnect();
    let (took, result) = held.await.unwrap();
    result.unwrap();
    assert!(took < Duration::from_millis(720), "in after {took:?}");
}

#[tokio::test(start_paused = true)]
async fn probe_replaces_a_silent_publisher_at_once() {
    let bench = bench(OnConflict::Probe);
    let (_, old) = bench.live().await;
    sleep(Duration::from_secs(2)).await;
    let (took, result) = bench.publish_in_task().await.unwrap();
    result.unwrap();
    assert!(took < Duration::from_millis(10), "in after {took:?}");
    settle().await;
    assert!(old.is_closed());
    assert_eq!(
        bench.events.words(),
        ["0 start", "0 rtp 1", "0 end Replaced"]
    );
}

#[tokio::test(start_paused = true)]
async fn probe_counts_silence_from_the_connection_when_no_packet_ever_came() {
    let bench = bench(OnConflict::Probe);
    bench.transport.publish(OFFER).await.unwrap();
    bench.connector.peer().connect();
    let (took, result) = bench.publish_in_task().await.unwrap();
    result.unwrap();
    assert!(
        took >= Duration::from_millis(1990) && took < Duration::from_millis(2100),
        "in after {took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn probe_replaces_a_publisher_that_never_connected_at_once() {
    let bench = bench(OnConflict::Probe);
    bench.transport.publish(OFFER).await.unwrap();
    let old = bench.connector.peer();
    let (took, result) = bench.publish_in_task().await.unwrap();
    result.unwrap();
    assert!(took < Duration::from_millis(10), "in after {took:?}");
    settle().await;
    assert!(old.is_closed());
    old.connect();
    assert!(bench.events.words().is_empty(), "it never started");
}

#[tokio::test(start_paused = true)]
async fn an_offer_that_is_refused_harms_no_publisher_in_place() {
    let bench = bench(OnConflict::Replace);
    let (first, peer) = bench.live().await;
    bench
        .connector
        .refuse(PublishError::InvalidOffer("no media".to_owned()));
    assert!(matches!(
        bench.transport.publish(OFFER).await,
        Err(PublishError::InvalidOffer(_))
    ));
    peer.send(2);
    assert_eq!(bench.transport.current().unwrap().id, first.id);
    assert_eq!(bench.events.words(), ["0 start", "0 rtp 1", "0 rtp 2"]);
}

#[tokio::test(start_paused = true)]
async fn replace_takes_the_newest_at_once() {
    let bench = bench(OnConflict::Replace);
    let (first, old) = bench.live().await;
    let second = bench.transport.publish(OFFER).await.unwrap();
    assert_ne!(first.id, second.id);
    assert_ne!(first.etag, second.etag);
    settle().await;
    assert!(old.is_closed());
    // A late DELETE of the one that was replaced must not hit its successor.
    assert!(matches!(
        bench
            .transport
            .delete(Some(first.id), EndReason::Deleted)
            .await,
        Err(PublishError::UnknownPublication)
    ));
    old.disconnect();
    assert_eq!(bench.transport.current().unwrap().id, second.id);
}

#[tokio::test(start_paused = true)]
async fn reject_refuses_at_once_whatever_the_state() {
    let bench = bench(OnConflict::Reject);
    bench.transport.publish(OFFER).await.unwrap();
    let (took, result) = bench.publish_in_task().await.unwrap();
    assert!(matches!(result, Err(PublishError::Conflict { .. })));
    assert!(took < Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn of_many_held_offers_all_get_an_answer_in_time() {
    let bench = bench(OnConflict::Probe);
    let (_, peer) = bench.live().await;
    let sending = keep_sending(peer);
    let held: Vec<_> = (0..50).map(|_| bench.publish_in_task()).collect();
    for offer in held {
        let (took, result) = offer.await.unwrap();
        assert!(matches!(result, Err(PublishError::Conflict { .. })));
        assert!(took < Duration::from_millis(3100), "{took:?}");
    }
    sending.abort();
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_never_connects_is_dropped_after_ten_seconds() {
    let bench = bench(OnConflict::Reject);
    bench.transport.publish(OFFER).await.unwrap();
    let peer = bench.connector.peer();
    sleep(Duration::from_millis(9_990)).await;
    assert!(bench.transport.current().is_some());
    sleep(Duration::from_millis(20)).await;
    assert!(bench.transport.current().is_none());
    assert!(peer.is_closed());
    assert!(bench.events.words().is_empty());
    bench.transport.publish(OFFER).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_connected_is_left_alone_by_that_limit() {
    let bench = bench(OnConflict::Reject);
    let (publication, _) = bench.live().await;
    sleep(Duration::from_mins(1)).await;
    assert_eq!(bench.transport.current().unwrap().id, publication.id);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_too_long_is_given_up() {
    let bench = bench(OnConflict::Probe);
    bench.connector.accept_ms.store(60_000, Ordering::SeqCst);
    let (took, result) = bench.publish_in_task().await.unwrap();
    assert!(matches!(result, Err(PublishError::Unavailable(_))));
    assert!(took <= Duration::from_millis(3010), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_stack_is_an_error_and_frees_the_turn() {
    let bench = bench(OnConflict::Probe);
    bench.connector.panics.store(true, Ordering::SeqCst);
    assert!(matches!(
        bench.transport.publish(OFFER).await,
        Err(PublishError::Internal(_))
    ));
    bench.connector.panics.store(false, Ordering::SeqCst);
    bench.transport.publish(OFFER).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_during_negotiation_leaves_nothing_behind() {
    let bench = bench(OnConflict::Reject);
    bench.connector.accept_ms.store(500, Ordering::SeqCst);
    let offer = bench.publish_in_task();
    sleep(Duration::from_millis(100)).await;
    offer.abort();
    sleep(Duration::from_secs(11)).await;
    assert!(bench.transport.current().is_none());
    assert!(bench.connector.peers().iter().all(|peer| peer.is_closed()));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_while_held_takes_nothing_over() {
    let bench = bench(OnConflict::Probe);
    let (first, peer) = bench.live().await;
    let offer = bench.publish_in_task();
    settle().await;
    offer.abort();
    sleep(Duration::from_secs(5)).await;
    peer.send(2);
    assert_eq!(bench.transport.current().unwrap().id, first.id);
}

#[tokio::test(start_paused = true)]
async fn of_two_deletes_one_succeeds() {
    let bench = bench(OnConflict::Probe);
    let (publication, peer) = bench.live().await;
    let (a, b) = tokio::join!(
        bench.transport.delete(None, EndReason::Kicked),
        bench
            .transport
            .delete(Some(publication.id), EndReason::Deleted)
    );
    assert_eq!(
        [a, b].iter().filter(|result| result.is_ok()).count(),
        1,
        "exactly one"
    );
    assert_eq!(peer.closes(), 1);
    assert_eq!(bench.events.words().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_delete_does_not_wait_for_a_slow_close() {
    let bench = bench(OnConflict::Probe);
    bench.connector.close_ms.store(2000, Ordering::SeqCst);
    let (_, peer) = bench.live().await;
    let start = Instant::now();
    bench
        .transport
        .delete(None, EndReason::Deleted)
        .await
        .unwrap();
    assert!(start.elapsed() < Duration::from_millis(500));
    sleep(Duration::from_secs(2)).await;
    assert!(peer.is_closed(), "but it goes on to its end");
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_ends_the_publication_and_closes_the_peer() {
    let bench = bench(OnConflict::Reject);
    let (publication, peer) = bench.live().await;
    peer.disconnect();
    peer.disconnect();
    settle().await;
    assert_eq!(peer.closes(), 1);
    assert_eq!(
        bench.events.words(),
        ["0 start", "0 rtp 1", "0 end Disconnected"]
    );
    assert!(matches!(
        bench.transport.etag(Some(publication.id)),
        Err(PublishError::UnknownPublication)
    ));
    bench.transport.publish(OFFER).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_is_gone_may_still_delete_its_publication_once() {
    let bench = bench(OnConflict::Reject);
    let (publication, peer) = bench.live().await;
    peer.disconnect();
    settle().await;
    let delete = |id| bench.transport.delete(id, EndReason::Deleted);
    assert!(matches!(
        delete(None).await,
        Err(PublishError::UnknownPublication)
    ));
    delete(Some(publication.id)).await.unwrap();
    assert!(matches!(
        delete(Some(publication.id)).await,
        Err(PublishError::UnknownPublication)
    ));
    assert_eq!(
        bench.events.words(),
        ["0 start", "0 rtp 1", "0 end Disconnected", "0 withdrawn"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_is_gone_cannot_delete_its_successor() {
    let bench = bench(OnConflict::Reject);
    let (gone, peer) = bench.live().await;
    peer.disconnect();
    settle().await;
    let (successor, _) = bench.live().await;
    assert!(matches!(
        bench
            .transport
            .delete(Some(gone.id), EndReason::Deleted)
            .await,
        Err(PublishError::UnknownPublication)
    ));
    assert_eq!(bench.transport.current().unwrap().id, successor.id);
}

#[tokio::test(start_paused = true)]
async fn one_that_never_connected_has_nothing_to_withdraw() {
    let bench = bench(OnConflict::Reject);
    let publication = bench.transport.publish(OFFER).await.unwrap();
    bench.connector.peer().disconnect();
    settle().await;
    assert!(matches!(
        bench
            .transport
            .delete(Some(publication.id), EndReason::Deleted)
            .await,
        Err(PublishError::UnknownPublication)
    ));
    assert!(bench.events.words().is_empty());
}

#[tokio::test(start_paused = true)]
async fn close_ends_everything_and_refuses_what_comes_later() {
    let bench = bench(OnConflict::Probe);
    let (_, peer) = bench.live().await;
    let sending = keep_sending(Arc::clone(&peer));
    let held = bench.publish_in_task();
    sleep(Duration::from_millis(100)).await;
    bench.transport.close(EndReason::Shutdown).await;
    sending.abort();
    assert!(peer.is_closed());
    assert!(matches!(
        held.await.unwrap().1,
        Err(PublishError::Unavailable(_))
    ));
    assert!(matches!(
        bench.transport.publish(OFFER).await,
        Err(PublishError::Unavailable(_))
    ));
    assert_eq!(bench.events.words().last().unwrap(), "0 end Shutdown");
    bench.transport.close(EndReason::Shutdown).await;
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_a_negotiation_and_closes_its_peer() {
    let bench = bench(OnConflict::Probe);
    bench.connector.accept_ms.store(500, Ordering::SeqCst);
    let offer = bench.publish_in_task();
    sleep(Duration::from_millis(100)).await;
    bench.transport.close(EndReason::Shutdown).await;
    assert!(matches!(
        offer.await.unwrap().1,
        Err(PublishError::Unavailable(_))
    ));
    assert!(bench.connector.peer().is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_finishes_closing_does_not_hold_up_a_shutdown() {
    let bench = bench(OnConflict::Probe);
    bench.connector.close_ms.store(3_600_000, Ordering::SeqCst);
    bench.live().await;
    let start = Instant::now();
    bench.transport.close(EndReason::Shutdown).await;
    assert!(start.elapsed() <= Duration::from_millis(2600));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_transport_ends_the_publication() {
    let Bench {
        connector,
        events,
        transport,
    } = bench(OnConflict::Probe);
    transport.publish(OFFER).await.unwrap();
    connector.peer().connect();
    let watcher = Arc::downgrade(&transport);
    drop(transport);
    assert!(watcher.upgrade().is_none());
    settle().await;
    assert!(connector.peer().is_closed());
    connector.peer().send(1);
    assert_eq!(events.words(), ["0 start", "0 end Shutdown"]);
}

#[tokio::test(start_paused = true)]
async fn candidates_reach_the_peer_up_to_the_limit() {
    let bench = bench(OnConflict::Probe);
    let line = "a=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\n";
    let offer = format!("{OFFER}{}", line.repeat(60));
    let publication = bench.transport.publish(&offer).await.unwrap();
    let some = |count| RemoteCandidates {
        candidates: vec![
            RemoteCandidate {
                mid: Some("0".to_owned()),
                mline_index: None,
                candidate: "candidate:1 1 udp 1 127.0.0.1 9 typ host".to_owned(),
            };
            count
        ],
        ..RemoteCandidates::default()
    };
    let id = Some(publication.id);
    bench.transport.add_candidates(id, some(39)).await.unwrap();
    assert!(matches!(
        bench.transport.add_candidates(None, some(2)).await,
        Err(PublishError::TooManyCandidates { limit: 100 })
    ));
    bench.transport.add_candidates(None, some(1)).await.unwrap();
    assert_eq!(bench.connector.peer().candidates().len(), 2);

    let offer = format!("{OFFER}{}", line.repeat(101));
    assert!(matches!(
        bench.transport.publish(&offer).await,
        Err(PublishError::TooManyCandidates { limit: 100 })
    ));
}

#[tokio::test(start_paused = true)]
async fn an_ice_restart_changes_the_tag_and_a_failed_one_does_not() {
    let bench = bench(OnConflict::Probe);
    let (publication, _) = bench.live().await;
    let wish = RemoteCandidates {
        ice: Some(IceCredentials {
            ufrag: "theirs".to_owned(),
            pwd: "theirpasswordtheirpassword".to_owned(),
        }),
        ..RemoteCandidates::default()
    };
    let restarted = bench
        .transport
        .restart_ice(Some(publication.id), wish.clone())
        .await
        .unwrap();
    assert_eq!(restarted.restart.ice.ufrag, "ours1");
    assert_eq!(&*restarted.answer, ANSWER);
    assert_ne!(restarted.etag, publication.etag);
    assert_eq!(bench.transport.etag(None).unwrap(), restarted.etag);

    bench.transport.close(EndReason::Shutdown).await;
    let bench = self::bench(OnConflict::Probe);
    bench.connector.no_restart.store(true, Ordering::SeqCst);
    let (publication, _) = bench.live().await;
    assert!(matches!(
        bench.transport.restart_ice(None, wish).await,
        Err(PublishError::IceRestartUnsupported)
    ));
    assert_eq!(bench.transport.etag(None).unwrap(), publication.etag);
}

#[tokio::test(start_paused = true)]
async fn keyframes_are_asked_of_the_publisher_in_place() {
    let bench = bench(OnConflict::Replace);
    bench.transport.request_keyframe(1);
    let (_, old) = bench.live().await;
    bench.transport.request_keyframe(1);
    let (_, new) = bench.live().await;
    bench.transport.request_keyframe(0);
    assert_eq!((old.keyframes(), new.keyframes()), (vec![1], vec![0]));
}

/// Asks for a keyframe from within each event.
#[derive(Default)]
struct Asking(OnceLock<Arc<PublishTransport>>);

impl PublishSink for Asking {
    fn on_event(&self, _: PublishEvent) {
        if let Some(transport) = self.0.get() {
            transport.request_keyframe(1);
            transport.current();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_may_ask_for_keyframes_from_within_an_event() {
    let connector = Arc::new(FakeConnector::default());
    let sink = Arc::new(Asking::default());
    let transport = PublishTransport::new(
        Arc::clone(&connector) as _,
        Arc::clone(&sink) as _,
        PublishOptions {
            on_conflict: OnConflict::Replace,
            ..PublishOptions::default()
        },
    );
    assert!(sink.0.set(Arc::clone(&transport)).is_ok());
    transport.publish(OFFER).await.unwrap();
    connector.peer().connect();
    connector.peer().send(1);
    assert_eq!(connector.peer().keyframes(), [1, 1]);
    transport.publish(OFFER).await.unwrap();
    transport.close(EndReason::Shutdown).await;
}

/// Threads send while another ends the publication: `Ended` is the last event in every run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_follows_the_end_whatever_the_threads() {
    for _ in 0..200 {
        let bench = bench(OnConflict::Probe);
        bench.transport.publish(OFFER).await.unwrap();
        let peer = bench.connector.peer();
        peer.connect();
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let peer = Arc::clone(&peer);
                std::thread::spawn(move || (1..200).for_each(|number| peer.send(number)))
            })
            .collect();
        bench
            .transport
            .delete(None, EndReason::Deleted)
            .await
            .unwrap();
        let after_delete = bench.events.words().len();
        for thread in threads {
            thread.join().unwrap();
        }
        let words = bench.events.words();
        assert_eq!(words.len(), after_delete);
        assert_eq!(words.first().unwrap(), "0 start");
        assert_eq!(words.last().unwrap(), "0 end Deleted");
    }
}

fn rtp(publication: PublicationId, track: TrackIndex) -> PublishEvent {
    PublishEvent::Rtp {
        publication,
        track,
        packet: RtpPacket {
            payload_type: 96,
            marker: true,
            sequence_number: 0,
            timestamp: 0,
            ssrc: 0,
            payload: bytes::Bytes::new(),
        },
        arrival: std::time::Instant::now(),
    }
}

#[test]
fn a_full_channel_drops_packets_but_never_the_end() {
    let (sink, mut events) = channel(4);
    let (first, second) = (PublicationId::random(), PublicationId::random());
    let started = |publication| PublishEvent::Started {
        publication,
        tracks: Arc::new([]),
    };
    let ended = |publication| PublishEvent::Ended {
        publication,
        reason: EndReason::Deleted,
    };
    sink.on_event(started(first));
    for _ in 0..10 {
        sink.on_event(rtp(first, 0));
    }
    sink.on_event(ended(first));
    assert_eq!(sink.dropped(), 8, "two of ten had room");
    // No room for the second one's start: nothing of it is passed on, its end neither.
    sink.on_event(started(second));
    assert!(matches!(
        events.try_recv(),
        Ok(PublishEvent::Started { .. })
    ));
    sink.on_event(rtp(second, 0));
    sink.on_event(ended(second));
    assert_eq!(sink.dropped(), 11);
    let rest: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
    assert_eq!(rest.len(), 3);
    assert!(rest.iter().all(|event| event.publication() == first));
    assert!(matches!(rest.last(), Some(PublishEvent::Ended { .. })));
}

/// What one packet costs on its way to the sink. Run by hand with `--ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
async fn cost_of_a_packet() {
    const PACKETS: u32 = 5_000_000;
    struct Nothing;
    impl PublishSink for Nothing {
        fn on_event(&self, event: PublishEvent) {
            std::hint::black_box(event);
        }
    }
    let connector = Arc::new(FakeConnector::default());
    let transport = PublishTransport::new(
        Arc::clone(&connector) as _,
        Arc::new(Nothing),
        PublishOptions::default(),
    );
    transport.publish(OFFER).await.unwrap();
    let peer = connector.peer();
    peer.connect();
    let now = std::time::Instant::now();
    let PublishEvent::Rtp { packet, .. } = rtp(PublicationId::random(), 0) else {
        unreachable!()
    };
    for _ in 0..PACKETS {
        peer.observer.on_rtp(0, packet.clone(), now);
    }
    println!("{:?} per packet", now.elapsed() / PACKETS);
}
