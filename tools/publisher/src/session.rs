//! The media side of one publication: str0m, its UDP socket and the tracks, in one task.
//!
//! RTP mode with packets of our own, so that tests can say what is sent when; ICE, DTLS, SRTP, RTX and RTCP are str0m's.
//! Knows no HTTP.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use str0m::{
    Event, IceConnectionState, Input, Output, Rtc,
    net::{Protocol, Receive},
    rtp::{RawPacket, RtpWrite, rtcp::Rtcp},
};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot, watch},
};

use crate::{
    encode::Encoded,
    live::Live,
    path::{Datagram, Kind, ReportGate, kind},
    track::{Sent, Track},
};

/// Datagrams read in a row before media is looked after again.
const RECEIVE_BURST: usize = 64;
/// Longest sleep of the task.
const IDLE: Duration = Duration::from_secs(1);
/// Between two requests for the keyframe a live source has to begin with.
const KEYFRAME_RETRY: Duration = Duration::from_millis(300);
/// Retransmissions str0m remembers per track: 3 s of 2.5 Mbit/s.
const RTX_CACHE: (usize, Duration) = (1024, Duration::from_secs(3));

/// Why a publication is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// We ended it.
    Here,
    /// The gateway closed DTLS.
    Remote,
    /// The transport failed; the log says how.
    Failed,
}

/// Plain counters, safe to read at any time.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) packets: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) pictures: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) nacked: AtomicU64,
    pub(crate) retransmitted: AtomicU64,
    pub(crate) keyframe_requests: AtomicU64,
    pub(crate) sender_reports: AtomicU64,
    pub(crate) ice_disconnects: AtomicU64,
    pub(crate) unsent: AtomicU64,
    pub(crate) late_micros: AtomicU64,
    /// Shortest time between two keyframe requests, in milliseconds; 0 while there were less than two.
    pub(crate) keyframe_request_gap: AtomicU64,
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

/// What others see of the task.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) counters: Counters,
    /// Units a live encoder made and nobody took.
    pub(crate) source_dropped: Arc<AtomicU64>,
    pub(crate) connected: watch::Sender<Option<Instant>>,
    pub(crate) ended: watch::Sender<Option<Ended>>,
    /// Media time of each picture sent, by its number.
    pub(crate) pictures: Mutex<Vec<Duration>>,
}

/// What changes in the middle of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The track goes on under another SSRC with its own sequence numbers and time stamps.
    NewSource,
    /// The track's time stamps jump by so many seconds.
    TimestampJump(i16),
}

/// Orders to the task.
#[derive(Debug)]
pub(crate) enum Command {
    /// Changes video, audio or both.
    Change {
        video: Option<Change>,
        audio: Option<Change>,
    },
    /// Stops or resumes sending media of video and audio.
    Pause { video: bool, audio: bool },
    /// Ends by DTLS close; answered when everything is sent.
    Close(oneshot::Sender<()>),
}

pub(crate) struct Session {
    pub(crate) rtc: Rtc,
    pub(crate) socket: UdpSocket,
    pub(crate) local: SocketAddr,
    pub(crate) tracks: Vec<Track>,
    pub(crate) live: Option<Live>,
    pub(crate) reports: ReportGate,
    /// For audio, if it has reports of its own.
    pub(crate) audio_reports: Option<ReportGate>,
    pub(crate) publication: Option<u32>,
    /// Media of clips ends here.
    pub(crate) media_duration: Option<Duration>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// Media time zero; set when the connection stands.
    pub(crate) origin: Option<Instant>,
    pub(crate) outbox: Vec<Datagram>,
    pub(crate) repairs: Vec<(usize, u16)>,
    pub(crate) keyframe_asked: Option<Instant>,
    /// NACKs are ignored.
    pub(crate) repairs_lost: bool,
    /// When the gateway last asked for a keyframe.
    pub(crate) last_request: Option<Instant>,
}

/// What woke the task.
enum Wake {
    Command(Option<Command>),
    Readable,
    Live(usize, Encoded),
    Time,
}

impl Session {
    /// Until closed from either side; without a word if the handle is gone.
    pub(crate) async fn run(mut self) {
        let ended = match self.events().await {
            Ok(ended) => ended,
            Err(error) => {
                tracing::warn!("publication failed: {error:#}");
                Ended::Failed
            }
        };
        self.shared.ended.send_replace(Some(ended));
    }

    async fn events(&mut self) -> Result<Ended> {
        let mut buffer = vec![0; 2048];
        let mut timeout = self.flush(Instant::now()).await?;
        while self.rtc.is_alive() {
            match self.wait(timeout).await {
                Wake::Command(Some(Command::Pause { video, audio })) => {
                    for track in &mut self.tracks {
                        track.paused = if track.is_video() { video } else { audio };
                    }
                }
                Wake::Command(Some(Command::Change { video, audio })) => self.change(video, audio),
                Wake::Command(Some(Command::Close(done))) => {
                    self.rtc.close()?;
                    self.flush(Instant::now()).await?;
                    if done.send(()).is_err() {
                        tracing::debug!("closed, with nobody waiting for it");
                    }
                    return Ok(Ended::Here);
                }
                Wake::Command(None) => return Ok(Ended::Here),
                Wake::Readable => self.receive(&mut buffer).await?,
                Wake::Live(index, encoded) => self.send_live(index, encoded),
                Wake::Time => self.rtc.handle_input(Input::Timeout(Instant::now()))?,
            }
            self.send_due_clips();
            timeout = self.flush(Instant::now()).await?;
        }
        Ok(Ended::Remote)
    }

    async fn wait(&mut self, timeout: Instant) -> Wake {
        let deadline = self.deadline(timeout);
        let Self {
            socket,
            commands,
            tracks,
            ..
        } = self;
        let live = poll_fn(|context| {
            for (index, track) in tracks.iter_mut().enumerate() {
                if let Poll::Ready(encoded) = track.poll_live(context) {
                    return Poll::Ready((index, encoded));
                }
            }
            Poll::Pending
        });
        tokio::select! {
            command = commands.recv() => Wake::Command(command),
            _ = socket.readable() => Wake::Readable,
            (index, encoded) = live => Wake::Live(index, encoded),
            () = tokio::time::sleep_until(deadline.into()) => Wake::Time,
        }
    }

    fn change(&mut self, video: Option<Change>, audio: Option<Change>) {
        for track in &mut self.tracks {
            match if track.is_video() { video } else { audio } {
                None => {}
                Some(Change::NewSource) => {
                    let mut api = self.rtc.direct_api();
                    let ssrc = api.new_ssrc();
                    api.remove_stream_tx(track.net.ssrc);
                    track.net.rtx = track.net.rtx.map(|_| api.new_ssrc());
                    track.change_source(ssrc);
                }
                Some(Change::TimestampJump(seconds)) => {
                    track.jump(i32::from(seconds).wrapping_mul(track.clock_rate as i32));
                }
            }
        }
    }

    fn deadline(&self, timeout: Instant) -> Instant {
        let clips = self
            .tracks
            .iter()
            .filter_map(|track| Some(self.origin? + self.clip_due(track)?));
        let delayed = self.tracks.iter().filter_map(|track| track.path.next());
        clips
            .chain(delayed)
            .fold(timeout.min(Instant::now() + IDLE), Instant::min)
    }

    /// When the track's next clip unit is sent, unless the clips are over.
    fn clip_due(&self, track: &Track) -> Option<Duration> {
        let over = self
            .media_duration
            .is_some_and(|end| track.clip_time() >= end);
        track.due().filter(|_| !over)
    }

    async fn receive(&mut self, buffer: &mut [u8]) -> Result<()> {
        for _ in 0..RECEIVE_BURST {
            let (len, source) = match self.socket.try_recv_from(buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                // The gateway's socket is gone; ICE or DTLS tells in its own time.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error).context("cannot receive"),
            };
            let now = Instant::now();
            match Receive::new(Protocol::Udp, source, self.local, &buffer[..len]) {
                Ok(received) => {
                    self.rtc.handle_input(Input::Receive(now, received))?;
                    self.flush(now).await?;
                }
                Err(error) => tracing::debug!(%error, "ignored a datagram"),
            }
        }
        Ok(())
    }

    fn send_live(&mut self, index: usize, encoded: Encoded) {
        let Some(origin) = self.origin else {
            return;
        };
        if let Some(track) = self.tracks.get(index) {
            let ticks = track.ticks_at(encoded.pts);
            self.send_unit(
                index,
                encoded.unit,
                ticks,
                origin + Duration::from_nanos(encoded.pts),
            );
        }
    }

    fn send_due_clips(&mut self) {
        let Some(origin) = self.origin else {
            return;
        };
        for index in 0..self.tracks.len() {
            while let Some(due) = self.clip_due(&self.tracks[index]).map(|due| origin + due)
                && due <= Instant::now()
            {
                let late = Instant::now().duration_since(due).as_micros() as u64;
                self.shared
                    .counters
                    .late_micros
                    .fetch_max(late, Ordering::Relaxed);
                let Some((unit, ticks)) = self.tracks[index].next_clip_unit() else {
                    break;
                };
                let shown = origin + self.tracks[index].media_time(ticks);
                self.send_unit(index, unit, ticks, shown);
            }
        }
    }

    fn send_unit(
        &mut self,
        index: usize,
        unit: crate::packetize::AccessUnit,
        ticks: u64,
        wallclock: Instant,
    ) {
        let connected = *self.shared.connected.borrow();
        let (Some(track), Some(connected)) = (self.tracks.get_mut(index), connected) else {
            return;
        };
        // What was captured just before the connection stood is still sent: it may hold the first keyframe.
        let starts_after = track.path.options().starts_after;
        let too_early = !starts_after.is_zero() && wallclock < connected + starts_after;
        if track.paused || too_early {
            return;
        }
        let media_time = track.media_time(ticks);
        let claimed = wallclock
            .checked_sub(track.path.options().clock_error)
            .unwrap_or(wallclock);
        let packets = track.packets(unit, ticks, claimed, self.publication);
        if packets.is_empty() {
            self.ask_for_first_keyframe();
            return;
        }
        if track.is_video() {
            add(&self.shared.counters.pictures, 1);
            self.shared
                .pictures
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(media_time);
        }
        let (net, started) = (track.net, std::mem::replace(&mut track.started, true));
        let mut api = self.rtc.direct_api();
        if !started {
            let stream = api.declare_stream_tx(net.ssrc, net.rtx, net.mid, None);
            stream.set_rtx_cache(RTX_CACHE.0, RTX_CACHE.1, None);
            let gate = match &mut self.audio_reports {
                Some(gate) if !track.is_video() => gate,
                _ => &mut self.reports,
            };
            gate.track_started(Instant::now());
            // The report str0m makes before its first packet says RTP time 0.
            gate.closed = true;
        }
        for packet in &packets {
            write(&mut api, &net, packet);
        }
    }

    /// Takes everything out of str0m and sends it; gives the time at which str0m wants to be called again.
    async fn flush(&mut self, now: Instant) -> Result<Instant> {
        if self.origin.is_some() {
            self.rtc.handle_input(Input::Timeout(now))?;
        }
        let timeout = loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) if at <= now && self.rtc.is_alive() => {
                    self.rtc.handle_input(Input::Timeout(now))?;
                }
                Output::Timeout(at) => {
                    if !self.resend(now) {
                        break at;
                    }
                    self.rtc.handle_input(Input::Timeout(now))?;
                }
                Output::Transmit(transmit) => {
                    self.admit(now, (transmit.destination, transmit.contents.to_vec()));
                }
                Output::Event(event) => self.on_event(&event),
            }
        };
        self.reports.closed = false;
        if let Some(gate) = &mut self.audio_reports {
            gate.closed = false;
        }
        for track in &mut self.tracks {
            while let Some(datagram) = track.path.leave(now) {
                self.outbox.push(datagram);
            }
        }
        for (destination, datagram) in self.outbox.drain(..) {
            if let Err(error) = self.socket.send_to(&datagram, destination).await {
                add(&self.shared.counters.unsent, 1);
                tracing::debug!(%error, "cannot send");
            }
        }
        Ok(timeout)
    }

    fn admit(&mut self, now: Instant, datagram: Datagram) {
        let counters = &self.shared.counters;
        match kind(&datagram.1) {
            Kind::SenderReport(ssrc) => {
                let of_audio = self
                    .tracks
                    .iter()
                    .any(|track| !track.is_video() && track.net.ssrc == ssrc.into());
                let gate = match &mut self.audio_reports {
                    Some(gate) if of_audio => gate,
                    _ => &mut self.reports,
                };
                if gate.admits(ssrc, now) {
                    add(&counters.sender_reports, 1);
                    self.outbox.push(datagram);
                }
            }
            Kind::Rtp(ssrc) => {
                let ssrc = ssrc.into();
                let Some(track) = self
                    .tracks
                    .iter_mut()
                    .find(|track| track.net.ssrc == ssrc || track.net.rtx == Some(ssrc))
                else {
                    return self.outbox.push(datagram);
                };
                add(&counters.packets, 1);
                add(&counters.bytes, datagram.1.len() as u64);
                if track.net.rtx == Some(ssrc) {
                    add(&counters.retransmitted, 1);
                }
                if !track.path.enter(now, datagram) {
                    add(&counters.lost, 1);
                }
            }
            Kind::Other => self.outbox.push(datagram),
        }
    }

    fn on_event(&mut self, event: &Event) {
        match event {
            Event::Connected => {
                let now = Instant::now();
                self.shared.connected.send_replace(Some(now));
                for track in &mut self.tracks {
                    track.path.connected(now);
                }
                self.origin = Some(self.live.as_ref().map_or(now, |live| live.origin));
                self.force_keyframe();
            }
            Event::KeyframeRequest(_) => {
                self.note_keyframe_request();
                if !self
                    .live
                    .as_ref()
                    .is_some_and(|live| live.ignores_keyframe_requests)
                {
                    self.force_keyframe();
                }
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                add(&self.shared.counters.ice_disconnects, 1);
            }
            Event::RawPacket(packet) => {
                if let RawPacket::RtcpRx(Rtcp::Nack(nack)) = packet.as_ref() {
                    self.on_nack(nack);
                }
            }
            _ => {}
        }
    }

    fn note_keyframe_request(&mut self) {
        let now = Instant::now();
        let counters = &self.shared.counters;
        add(&counters.keyframe_requests, 1);
        if let Some(last) = self.last_request.replace(now) {
            let gap = now.duration_since(last).as_millis() as u64;
            let least = counters.keyframe_request_gap.load(Ordering::Relaxed);
            let least = if least == 0 { gap } else { least.min(gap) };
            counters
                .keyframe_request_gap
                .store(least.max(1), Ordering::Relaxed);
        }
    }

    /// The encoder may have spent an earlier request on a picture that was not sent.
    fn ask_for_first_keyframe(&mut self) {
        let now = Instant::now();
        if self
            .keyframe_asked
            .is_none_or(|at| now - at > KEYFRAME_RETRY)
        {
            self.keyframe_asked = Some(now);
            self.force_keyframe();
        }
    }

    fn force_keyframe(&self) {
        if let Some(live) = &self.live {
            live.force_keyframe();
        }
    }

    fn on_nack(&mut self, nack: &str0m::rtp::rtcp::Nack) {
        let Some(index) = self
            .tracks
            .iter()
            .position(|track| track.net.ssrc == nack.ssrc)
        else {
            return;
        };
        for entry in nack.reports.iter() {
            let following = (0..16u16)
                .filter(|bit| entry.blp & (1 << bit) != 0)
                .map(|bit| bit + 1);
            for offset in std::iter::once(0).chain(following) {
                add(&self.shared.counters.nacked, 1);
                if !self.repairs_lost && !self.tracks[index].net.rtx_accepted {
                    self.repairs.push((index, entry.pid.wrapping_add(offset)));
                }
            }
        }
    }

    /// Sends asked-for packets again as they were (no RTX); true if there were any.
    fn resend(&mut self, now: Instant) -> bool {
        let mut any = false;
        for (index, sequence) in std::mem::take(&mut self.repairs) {
            let track = &self.tracks[index];
            if let Some(packet) = track
                .sent(sequence)
                .filter(|packet| now - packet.wallclock < RTX_CACHE.1)
            {
                write(&mut self.rtc.direct_api(), &track.net, packet);
                add(&self.shared.counters.retransmitted, 1);
                any = true;
            }
        }
        any
    }
}

fn write(api: &mut str0m::change::DirectApi<'_>, net: &crate::track::Negotiated, packet: &Sent) {
    if let Some(stream) = api.stream_tx(&net.ssrc) {
        stream.write_rtp(
            RtpWrite::new(
                net.pt,
                packet.sequence.into(),
                packet.timestamp,
                packet.wallclock,
                Arc::clone(&packet.payload),
            )
            .marker(packet.marker)
            .nackable(net.rtx_accepted),
        );
    }
}
