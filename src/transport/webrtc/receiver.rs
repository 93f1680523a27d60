//! [`Receiver`]: the interceptor that takes a publisher's RTP and RTCP out of the stack and talks back.
//!
//! Owns the way from a decrypted packet to the [`PeerObserver`](crate::transport::PeerObserver) and all feedback:
//! NACK, keyframe requests, receiver reports, transport-wide congestion feedback. Packets end here, on the driver's
//! own task, rather than travel on through the stack's channel per track: that channel drops packets when its reader
//! is slow and costs a task switch for each. Streams are told apart by payload type, which is unique within a BUNDLE
//! group, so publishers that announce no SSRC need no guessing.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use rtc::{
    interceptor::{
        AttributedPacket, Interceptor, Packet, RTPHeaderExtension, ReceiverReportBuilder,
        ReceiverReportInterceptor, StreamInfo, TaggedPacket, TwccReceiverBuilder,
        TwccReceiverInterceptor,
    },
    rtcp::{
        self,
        payload_feedbacks::{
            full_intra_request::{FirEntry, FullIntraRequest},
            picture_loss_indication::PictureLossIndication,
        },
        transport_feedbacks::{
            rapid_resynchronization_request::RapidResynchronizationRequest,
            transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers},
        },
    },
    rtp,
    sansio::Protocol,
    sdp::description::media::EXT_MAP_VALUE_TRANSPORT_CC_URI,
    shared::{TransportContext, error::Error},
};

use super::{link::Link, nack::NackLog, resync::ReportRequests};
use crate::{
    media::{RtpPacket, SenderReport, TrackIndex},
    transport::offer::OfferedTrack,
};

/// Streams of one track that are kept apart at a time; a sender may start a new one at will.
const STREAMS: usize = 4;

/// One stream (SSRC) of a track.
struct Stream {
    ssrc: u32,
    nacks: NackLog,
    report_requests: ReportRequests,
}

struct Track {
    offered: OfferedTrack,
    /// The streams seen, the newest last.
    streams: Vec<Stream>,
    keyframe_requests: u8,
}

/// See the module's text.
pub(super) struct Receiver {
    link: Arc<Link>,
    tracks: Vec<Track>,
    reports: ReceiverReportInterceptor,
    congestion: TwccReceiverInterceptor,
    out: VecDeque<TaggedPacket>,
    ssrc: u32,
}

impl Receiver {
    pub(super) fn new(link: Arc<Link>, tracks: &[OfferedTrack]) -> Self {
        Self {
            link,
            tracks: tracks
                .iter()
                .map(|offered| Track {
                    offered: offered.clone(),
                    streams: Vec::new(),
                    keyframe_requests: 0,
                })
                .collect(),
            reports: ReceiverReportBuilder::new().build(),
            congestion: TwccReceiverBuilder::new().build(),
            out: VecDeque::new(),
            ssrc: rand::random(),
        }
    }

    fn on_rtp(&mut self, packet: &rtp::Packet, now: Instant) -> bool {
        let header = &packet.header;
        let Some(index) = self
            .tracks
            .iter()
            .position(|track| track.offered.info.payload_type == header.payload_type)
        else {
            return false;
        };
        let Some(track) = self.tracks.get_mut(index) else {
            return false;
        };
        if !track
            .streams
            .iter()
            .any(|stream| stream.ssrc == header.ssrc)
        {
            let old = if track.streams.len() >= STREAMS {
                Some(track.streams.remove(0))
            } else {
                None
            };
            track.streams.push(Stream {
                ssrc: header.ssrc,
                nacks: NackLog::new(track.offered.feedback.nack),
                report_requests: ReportRequests::new(now),
            });
            let offered = track.offered.clone();
            self.bind(&offered, header.ssrc, old.map(|stream| stream.ssrc));
        }
        let counters = &self.link.counters;
        if let Some(track) = self.tracks.get_mut(index)
            && let Some(stream) = track
                .streams
                .iter_mut()
                .find(|stream| stream.ssrc == header.ssrc)
        {
            stream.nacks.arrived(header.sequence_number, now);
            let lost = stream.nacks.take_lost();
            if lost != 0 {
                counters.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
        counters.packets.fetch_add(1, Ordering::Relaxed);
        counters
            .bytes
            .fetch_add(packet.payload.len() as u64, Ordering::Relaxed);
        self.link.life().observer().on_rtp(
            index,
            RtpPacket {
                payload_type: header.payload_type,
                marker: header.marker,
                sequence_number: header.sequence_number,
                timestamp: header.timestamp,
                ssrc: header.ssrc,
                payload: packet.payload.clone(),
            },
            now,
        );
        true
    }

    /// Tells the report generators of a new stream, and of the one it replaces.
    fn bind(&mut self, offered: &OfferedTrack, ssrc: u32, old: Option<u32>) {
        let info = |ssrc| StreamInfo {
            ssrc,
            payload_type: offered.info.payload_type,
            clock_rate: offered.info.clock_rate,
            rtp_header_extensions: offered
                .transport_cc
                .filter(|_| offered.feedback.transport_cc)
                .map(|id| RTPHeaderExtension {
                    uri: EXT_MAP_VALUE_TRANSPORT_CC_URI.to_owned(),
                    id: id.into(),
                })
                .into_iter()
                .collect(),
            ..StreamInfo::default()
        };
        if let Some(old) = old {
            self.reports.unbind_remote_stream(&info(old));
            self.congestion.unbind_remote_stream(&info(old));
        }
        self.reports.bind_remote_stream(&info(ssrc));
        self.congestion.bind_remote_stream(&info(ssrc));
    }

    fn on_rtcp(&mut self, packets: &[Box<dyn rtcp::Packet>], now: Instant) {
        for packet in packets {
            if let Some(report) = packet
                .as_any()
                .downcast_ref::<rtcp::sender_report::SenderReport>()
                && let Some(track) = self.track_of(report.ssrc)
            {
                tracing::trace!(
                    track,
                    ssrc = report.ssrc,
                    ntp = report.ntp_time,
                    rtp = report.rtp_time,
                    "sender report"
                );
                let stream = self.tracks.get_mut(track).and_then(|track| {
                    let mut streams = track.streams.iter_mut();
                    streams.find(|stream| stream.ssrc == report.ssrc)
                });
                if let Some(stream) = stream {
                    stream.report_requests.reported(now);
                }
                let report = SenderReport {
                    ssrc: report.ssrc,
                    ntp: report.ntp_time,
                    rtp_timestamp: report.rtp_time,
                };
                self.link
                    .life()
                    .observer()
                    .on_sender_report(track, report, now);
            }
        }
    }

    /// The track of a stream that was seen or announced.
    fn track_of(&self, ssrc: u32) -> Option<TrackIndex> {
        self.tracks.iter().position(|track| {
            track.streams.iter().any(|stream| stream.ssrc == ssrc)
                || track.offered.ssrcs.contains(&ssrc)
        })
    }

    fn send(&mut self, now: Instant, packet: Box<dyn rtcp::Packet>) {
        self.out.push_back(TaggedPacket {
            now,
            transport: TransportContext::default(),
            message: AttributedPacket::new(Packet::Rtcp(vec![packet])),
        });
    }

    /// Asks new streams for their first sender reports.
    fn ask_for_reports(&mut self, now: Instant) {
        let mut due = Vec::new();
        for stream in self.tracks.iter_mut().flat_map(|track| &mut track.streams) {
            if stream.report_requests.due(now) {
                due.push(stream.ssrc);
            }
        }
        for media_ssrc in due {
            let request = RapidResynchronizationRequest {
                sender_ssrc: self.ssrc,
                media_ssrc,
            };
            self.send(now, Box::new(request));
        }
    }

    fn ask_for_missing(&mut self, now: Instant) {
        let mut requests = Vec::new();
        for track in &mut self.tracks {
            for stream in &mut track.streams {
                let missing = stream.nacks.due(now);
                if !missing.is_empty() {
                    requests.push((stream.ssrc, missing));
                }
            }
        }
        for (media_ssrc, missing) in requests {
            self.link
                .counters
                .nacks
                .fetch_add(missing.len() as u64, Ordering::Relaxed);
            let nack = TransportLayerNack {
                sender_ssrc: self.ssrc,
                media_ssrc,
                nacks: nack_pairs_from_sequence_numbers(&missing),
            };
            self.send(now, Box::new(nack));
        }
    }

    /// Asks for the keyframes that are wanted, in the way the publisher understands. A wish for a track of which
    /// nothing has come yet waits for its first packet.
    fn ask_for_keyframes(&mut self, now: Instant) {
        let ssrc = self.ssrc;
        let mut requests: Vec<Box<dyn rtcp::Packet>> = Vec::new();
        for (index, track) in self.tracks.iter_mut().enumerate() {
            let Some(media_ssrc) = track.streams.last().map(|stream| stream.ssrc) else {
                continue;
            };
            if !self.link.take_keyframe_wish(index) {
                continue;
            }
            if track.offered.feedback.pli {
                requests.push(Box::new(PictureLossIndication {
                    sender_ssrc: ssrc,
                    media_ssrc,
                }));
            } else if track.offered.feedback.fir {
                track.keyframe_requests = track.keyframe_requests.wrapping_add(1);
                requests.push(Box::new(FullIntraRequest {
                    sender_ssrc: ssrc,
                    media_ssrc,
                    fir: vec![FirEntry {
                        ssrc: media_ssrc,
                        sequence_number: track.keyframe_requests,
                    }],
                }));
            }
        }
        for request in requests {
            self.link.counters.plis.fetch_add(1, Ordering::Relaxed);
            self.send(now, request);
        }
    }
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for Receiver {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = Error;
    type Time = Instant;

    fn handle_read(&mut self, message: TaggedPacket) -> Result<(), Error> {
        self.link.life().heard(message.now);
        match &message.message.packet {
            Packet::Rtp(packet) => {
                if !self.on_rtp(packet, message.now) {
                    return Ok(());
                }
            }
            Packet::Rtcp(packets) => self.on_rtcp(packets, message.now),
            _ => return Ok(()),
        }
        // The generators only look at packets; what they pass on ends here.
        self.reports.handle_read(message)?;
        if let Some(message) = self.reports.poll_read() {
            self.congestion.handle_read(message)?;
            let _seen = self.congestion.poll_read();
        }
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        None
    }

    fn handle_write(&mut self, message: TaggedPacket) -> Result<(), Error> {
        self.out.push_back(message);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.out
            .pop_front()
            .or_else(|| self.reports.poll_write())
            .or_else(|| self.congestion.poll_write())
    }

    fn handle_event(&mut self, _event: ()) -> Result<(), Error> {
        Ok(())
    }

    fn poll_event(&mut self) -> Option<()> {
        None
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        self.ask_for_reports(now);
        self.ask_for_missing(now);
        self.ask_for_keyframes(now);
        self.reports.handle_timeout(now)?;
        self.congestion.handle_timeout(now)
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        let missing = self
            .tracks
            .iter()
            .flat_map(|track| &track.streams)
            .flat_map(|stream| [stream.nacks.deadline(), stream.report_requests.deadline()])
            .flatten()
            .min();
        [
            missing,
            self.reports.poll_timeout(),
            self.congestion.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn close(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// The stack announces streams it knows by SSRC; the receiver finds them by itself.
impl Interceptor for Receiver {
    fn bind_local_stream(&mut self, _info: &StreamInfo) {}
    fn unbind_local_stream(&mut self, _info: &StreamInfo) {}
    fn bind_remote_stream(&mut self, _info: &StreamInfo) {}
    fn unbind_remote_stream(&mut self, _info: &StreamInfo) {}
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        media::Codec,
        transport::{
            IceCredentials,
            offer::{Offer, tests::CHROMIUM},
            webrtc::link::tests::Recorder,
        },
    };

    struct Setting {
        recorder: Arc<Recorder>,
        link: Arc<Link>,
        receiver: Receiver,
        start: Instant,
    }

    /// Audio has payload type 111, video 103; both understand all feedback but audio has no NACK.
    fn setting() -> Setting {
        let recorder = Arc::new(Recorder::default());
        let ice = IceCredentials {
            ufrag: "ours".to_owned(),
            pwd: "secret".to_owned(),
        };
        let link = Arc::new(Link::new(ice, recorder.clone()));
        let offer = Offer::parse(CHROMIUM, &[Codec::H264]).unwrap();
        Setting {
            receiver: Receiver::new(Arc::clone(&link), &offer.tracks),
            recorder,
            link,
            start: Instant::now(),
        }
    }

    fn rtp(payload_type: u8, ssrc: u32, sequence_number: u16) -> Packet {
        let mut packet = rtp::Packet::default();
        packet.header.payload_type = payload_type;
        packet.header.ssrc = ssrc;
        packet.header.sequence_number = sequence_number;
        packet.payload = bytes::Bytes::from_static(&[1, 2, 3]);
        packet
            .header
            .set_extension(
                3,
                bytes::Bytes::from(sequence_number.to_be_bytes().to_vec()),
            )
            .unwrap();
        Packet::Rtp(packet)
    }

    impl Setting {
        fn read(&mut self, packet: Packet, after: Duration) {
            self.receiver
                .handle_read(TaggedPacket {
                    now: self.start + after,
                    transport: TransportContext::default(),
                    message: packet.into(),
                })
                .unwrap();
            assert!(self.receiver.poll_read().is_none(), "packets end here");
        }

        /// The RTCP that is sent at a time.
        fn sent(&mut self, after: Duration) -> Vec<Box<dyn rtcp::Packet>> {
            self.receiver.handle_timeout(self.start + after).unwrap();
            let mut all = Vec::new();
            while let Some(message) = self.receiver.poll_write() {
                if let Packet::Rtcp(packets) = message.message.packet {
                    all.extend(packets);
                }
            }
            all
        }

        fn sent_of<T: Clone + 'static>(&mut self, after: Duration) -> Vec<T> {
            self.sent(after)
                .iter()
                .filter_map(|packet| packet.as_any().downcast_ref::<T>().cloned())
                .collect()
        }
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn packets_go_to_the_track_of_their_payload_type() {
        let mut setting = setting();
        setting.read(rtp(103, 9, 1), ms(0));
        setting.read(rtp(111, 8, 1), ms(1));
        setting.read(rtp(96, 7, 1), ms(2));
        let tracks: Vec<TrackIndex> = setting
            .recorder
            .packets()
            .iter()
            .map(|(track, _)| *track)
            .collect();
        assert_eq!(tracks, [1, 0], "payload type 96 was not negotiated");
        assert_eq!(setting.recorder.packets()[0].1.payload.as_ref(), [1, 2, 3]);
        assert_eq!(setting.link.stats().packets, 2);
        assert_eq!(setting.link.stats().bytes, 6);
    }

    #[test]
    fn sender_reports_are_passed_on_for_known_and_announced_streams() {
        let mut setting = setting();
        let report = |ssrc| {
            Packet::Rtcp(vec![Box::new(rtcp::sender_report::SenderReport {
                ssrc,
                ntp_time: 5,
                rtp_time: 6,
                ..Default::default()
            })])
        };
        setting.read(report(9), ms(0));
        assert!(setting.recorder.reports().is_empty());
        setting.read(rtp(103, 9, 1), ms(0));
        setting.read(report(9), ms(0));
        // Announced by a=ssrc, nothing has come of it yet.
        setting.read(report(1_102_938_475), ms(0));
        let reports = setting.recorder.reports();
        assert_eq!(reports.len(), 2);
        assert_eq!((reports[0].0, reports[0].1.ntp), (1, 5));
        assert_eq!((reports[1].0, reports[1].1.rtp_timestamp), (0, 6));
    }

    #[test]
    fn gaps_are_asked_for_where_the_publisher_repeats() {
        let mut setting = setting();
        for (payload_type, ssrc) in [(103, 9), (111, 8)] {
            setting.read(rtp(payload_type, ssrc, 1), ms(0));
            setting.read(rtp(payload_type, ssrc, 4), ms(0));
        }
        let _first_requests = setting.sent(ms(0));
        let deadline = setting.receiver.poll_timeout().unwrap();
        assert_eq!(deadline, setting.start + ms(10));
        let nacks = setting.sent_of::<TransportLayerNack>(ms(10));
        assert_eq!(nacks.len(), 1, "audio offered no NACK");
        assert_eq!(nacks[0].media_ssrc, 9);
        assert_eq!(nacks[0].nacks[0].packet_list(), [2, 3]);
        assert_eq!(setting.link.stats().nacks_sent, 2);
    }

    #[test]
    fn a_keyframe_is_asked_for_when_there_is_somebody_to_ask() {
        let mut setting = setting();
        setting.link.want_keyframe(1);
        assert!(setting.sent(ms(0)).is_empty());
        setting.read(rtp(103, 9, 1), ms(1));
        let plis = setting.sent_of::<PictureLossIndication>(ms(2));
        assert_eq!(plis.len(), 1);
        assert_eq!(plis[0].media_ssrc, 9);
        assert!(setting.sent_of::<PictureLossIndication>(ms(3)).is_empty());
        assert_eq!(setting.link.stats().plis_sent, 1);
    }

    #[test]
    fn a_new_stream_is_asked_for_a_sender_report_at_once() {
        let mut setting = setting();
        for (payload_type, ssrc) in [(103, 9), (111, 8)] {
            setting.read(rtp(payload_type, ssrc, 1), ms(0));
        }
        assert_eq!(setting.receiver.poll_timeout(), Some(setting.start));
        let mut asked: Vec<u32> = setting
            .sent_of::<RapidResynchronizationRequest>(ms(0))
            .iter()
            .map(|request| request.media_ssrc)
            .collect();
        asked.sort_unstable();
        assert_eq!(asked, [8, 9]);
        let again = setting.sent_of::<RapidResynchronizationRequest>(ms(50));
        assert!(again.is_empty());
    }

    #[test]
    fn a_publisher_that_knows_fir_only_is_asked_by_it() {
        let mut setting = setting();
        setting.receiver.tracks[1].offered.feedback.pli = false;
        setting.read(rtp(103, 9, 1), ms(0));
        for number in 1..3 {
            setting.link.want_keyframe(1);
            let firs = setting.sent_of::<FullIntraRequest>(ms(1));
            assert_eq!(firs[0].fir[0].sequence_number, number);
        }
        setting.receiver.tracks[1].offered.feedback.fir = false;
        setting.link.want_keyframe(1);
        assert!(setting.sent(ms(2)).is_empty());
    }

    #[test]
    fn congestion_feedback_and_receiver_reports_are_sent() {
        let mut setting = setting();
        for number in 0..10 {
            setting.read(rtp(103, 9, number), ms(u64::from(number)));
        }
        let feedback = setting
            .sent_of::<rtcp::transport_feedbacks::transport_layer_cc::TransportLayerCc>(ms(110));
        assert_eq!(feedback[0].packet_status_count, 10);
        let reports = setting.sent_of::<rtcp::receiver_report::ReceiverReport>(ms(1100));
        assert_eq!(reports[0].reports[0].ssrc, 9);
    }

    #[test]
    fn a_publisher_that_changes_its_ssrc_all_the_time_costs_nothing() {
        let mut setting = setting();
        for ssrc in 0..1000 {
            setting.read(rtp(103, ssrc, 1), ms(0));
        }
        assert_eq!(setting.receiver.tracks[1].streams.len(), STREAMS);
        let reports = setting.sent_of::<rtcp::receiver_report::ReceiverReport>(ms(1100));
        assert_eq!(reports.len(), STREAMS);
    }
}
