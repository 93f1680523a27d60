//! Publishing from one call: sources, offer, answer, connection, and the handle that ends it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use reqwest::Url;
use serde::Serialize;
use str0m::{
    Candidate, Rtc, RtcConfig,
    change::SdpAnswer,
    media::{Direction, Mid},
};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::{
    clip::{AudioClipSpec, Clip, ClipSpec},
    codec::offer_opus,
    live::{Live, LiveSpec},
    path::{PathOptions, REPORT_GRAIN, ReportGate, SenderReports},
    session::{Change, Command, Counters, Ended, Session, Shared},
    track::{Feed, Negotiated, Track, TrackSource},
    whip::{Accepted, WhipClient},
};

/// Where pictures come from.
#[derive(Clone, Debug)]
pub enum VideoSource {
    /// One clip, repeated.
    Clip(ClipSpec),
    /// Clips played once each, in turn, for ever: for changes of size. All of one codec.
    Sequence(Vec<ClipSpec>),
    /// Made and encoded in real time, with the wall clock in the picture; answers keyframe requests.
    Live(LiveSpec),
}

impl Default for VideoSource {
    fn default() -> Self {
        Self::Clip(ClipSpec::default())
    }
}

/// Where sound comes from.
#[derive(Clone, Debug)]
pub enum AudioSource {
    /// The test sound, encoded once and repeated.
    Clip(AudioClipSpec),
    /// Clips played once each, in turn, for ever.
    Sequence(Vec<AudioClipSpec>),
    /// Made in real time together with a live picture; needs [`VideoSource::Live`].
    Live,
}

impl Default for AudioSource {
    fn default() -> Self {
        Self::Clip(AudioClipSpec::default())
    }
}

/// What to publish, where, and how badly.
///
/// `Default` publishes a 720p30 H.264 clip and Opus over a perfect network; give at least `url`.
#[derive(Clone, Debug)]
pub struct PublishOptions {
    /// WHIP endpoint.
    pub url: String,
    /// Bearer token.
    pub token: Option<String>,
    /// Video track, if any.
    pub video: Option<VideoSource>,
    /// Audio track, if any.
    pub audio: Option<AudioSource>,
    /// The video track's network.
    pub video_path: PathOptions,
    /// The audio track's network.
    pub audio_path: PathOptions,
    /// RTCP sender reports.
    pub sender_reports: SenderReports,
    /// Offer RTX for video. Without it (or if the answer refuses it) a NACK is answered with the packet itself.
    pub rtx: bool,
    /// Ignore NACKs where they are not answered by RTX.
    pub no_repairs: bool,
    /// The audio track's sender reports, where they differ from `sender_reports`.
    pub audio_sender_reports: Option<SenderReports>,
    /// Put [`crate::stamp::Stamp`]s with this number into H.264 and H.265 pictures.
    pub stamp: Option<u32>,
    /// Clips end after this much media; the connection stays.
    pub media_duration: Option<Duration>,
    /// First RTP sequence number of each track; random below 2^15 if not given.
    pub first_sequence_number: Option<u16>,
    /// RTP timestamp of media time zero of each track; random if not given.
    pub first_timestamp: Option<u32>,
    /// Local address for media; loopback if not given and the URL is on loopback, else the one that reaches the URL's host.
    pub bind: Option<IpAddr>,
    /// Longest wait for the connection after the answer.
    pub connect_timeout: Duration,
    /// Decides which packets are lost or spoilt.
    pub seed: u64,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self {
            url: String::new(),
            token: None,
            video: Some(VideoSource::default()),
            audio: Some(AudioSource::default()),
            video_path: PathOptions::default(),
            audio_path: PathOptions::default(),
            sender_reports: SenderReports::default(),
            rtx: true,
            no_repairs: false,
            audio_sender_reports: None,
            stamp: Some(0),
            media_duration: None,
            first_sequence_number: None,
            first_timestamp: None,
            bind: None,
            connect_timeout: Duration::from_secs(10),
            seed: 1,
        }
    }
}

/// What was sent so far.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Stats {
    /// Milliseconds from the start of the POST to its complete answer.
    pub post_ms: f64,
    /// Milliseconds from the start of the POST to DTLS connected.
    pub connected_ms: f64,
    /// RTP packets handed to the network, lost and retransmitted ones included.
    pub packets: u64,
    /// Their bytes on the wire, without IP and UDP headers.
    pub bytes: u64,
    /// Pictures sent.
    pub pictures: u64,
    /// RTP packets lost on purpose.
    pub lost: u64,
    /// Sequence numbers the gateway asked for again.
    pub nacked: u64,
    /// Packets sent again.
    pub retransmitted: u64,
    /// PLI and FIR received.
    pub keyframe_requests: u64,
    /// Shortest time between two of them in milliseconds; 0 while there were less than two.
    pub keyframe_request_gap_ms: u64,
    /// Datagrams with sender reports sent.
    pub sender_reports: u64,
    /// How often ICE said `disconnected`.
    pub ice_disconnects: u64,
    /// Datagrams the socket refused.
    pub unsent: u64,
    /// Units the live encoder made and nobody took.
    pub source_dropped: u64,
    /// Longest time a clip unit was sent after it was due, in milliseconds: large values mean this machine is overloaded.
    pub late_ms: f64,
}

/// A publication that runs. Dropping it vanishes from the network without a word; [`Publisher::stop`] ends it properly.
///
/// ```no_run
/// # async fn example() -> anyhow::Result<()> {
/// use whipgate_publisher::{PublishOptions, Publisher};
///
/// let options = PublishOptions { url: "http://127.0.0.1:4000/whip/example".into(), ..Default::default() };
/// let publisher = Publisher::start(options).await?;
/// tokio::time::sleep(std::time::Duration::from_secs(2)).await;
/// println!("{} packets", publisher.stop().await?.packets);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Publisher {
    whip: WhipClient,
    accepted: Accepted,
    offer: String,
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
    posted: Instant,
    post_time: Duration,
}

impl Publisher {
    /// Posts an offer and returns when DTLS is connected; media flows from then on. A refusal by the endpoint is found with
    /// `error.downcast_ref::<whip::Refused>()`.
    pub async fn start(options: PublishOptions) -> Result<Self> {
        let whip = WhipClient::new(&options.url, options.token.clone())?;
        let (tracks, live) = prepare(&options).await?;
        ensure!(
            !tracks.is_empty(),
            "nothing to publish: neither video nor audio"
        );
        let bind = match options.bind {
            Some(bind) => bind,
            None => local_address(&options.url).await?,
        };
        let socket = UdpSocket::bind((bind, 0))
            .await
            .with_context(|| format!("cannot bind UDP on {bind}"))?;
        let local = socket.local_addr()?;

        let mut rtc = configure(&tracks, &options).build(Instant::now());
        rtc.add_local_candidate(Candidate::host(local, "udp")?);
        let mut changes = rtc.sdp_api();
        let mids: Vec<Mid> = tracks
            .iter()
            .map(|track| {
                changes.add_media(
                    track.kind(),
                    Direction::SendOnly,
                    Some("whipgate".into()),
                    None,
                    None,
                )
            })
            .collect();
        let (offer, pending) = changes.apply().context("str0m made no offer")?;
        let offer = offer.to_sdp_string();

        let posted = Instant::now();
        let accepted = whip.post(&offer).await?;
        let post_time = posted.elapsed();
        let answer = SdpAnswer::from_sdp_string(&accepted.answer)
            .with_context(|| format!("cannot read the answer:\n{}", accepted.answer))?;
        rtc.sdp_api()
            .accept_answer(pending, answer)
            .context("cannot follow the answer")?;

        let tracks = negotiate(&mut rtc, tracks, &mids, &options)?;
        let shared = Arc::new(Shared {
            counters: Counters::default(),
            source_dropped: live
                .as_ref()
                .map(|live| Arc::clone(&live.dropped))
                .unwrap_or_default(),
            connected: watch::Sender::new(None),
            ended: watch::Sender::new(None),
            pictures: Mutex::default(),
        });
        let (commands, orders) = mpsc::channel(8);
        let session = Session {
            rtc,
            socket,
            local,
            tracks,
            live,
            reports: ReportGate::new(options.sender_reports),
            audio_reports: options.audio_sender_reports.map(ReportGate::new),
            publication: options.stamp,
            media_duration: options.media_duration,
            shared: Arc::clone(&shared),
            commands: orders,
            origin: None,
            outbox: Vec::new(),
            repairs: Vec::new(),
            keyframe_asked: None,
            repairs_lost: options.no_repairs,
            last_request: None,
        };
        let task = tokio::spawn(session.run());
        let publisher = Self {
            whip,
            accepted,
            offer,
            shared,
            commands,
            task,
            posted,
            post_time,
        };
        publisher.wait_connected(options.connect_timeout).await?;
        Ok(publisher)
    }

    async fn wait_connected(&self, timeout: Duration) -> Result<()> {
        let mut connected = self.shared.connected.subscribe();
        let mut ended = self.shared.ended.subscribe();
        let connected = connected.wait_for(Option::is_some);
        let outcome = tokio::select! {
            _ = connected => None,
            _ = ended.wait_for(Option::is_some) => Some("the transport ended before it was connected".to_owned()),
            () = tokio::time::sleep(timeout) => Some(format!("not connected {timeout:?} after the answer")),
        };
        match outcome {
            None => Ok(()),
            Some(reason) => {
                // Best effort: the gateway must not keep a session we do not have.
                if let Err(error) = self.whip.delete(&self.accepted.session).await {
                    tracing::debug!("cannot delete the failed session: {error:#}");
                }
                bail!(reason)
            }
        }
    }

    /// The session URL of `Location`.
    pub const fn session_url(&self) -> &Url {
        &self.accepted.session
    }

    /// The `ETag` of the answer.
    pub fn etag(&self) -> Option<&str> {
        self.accepted.etag.as_deref()
    }

    /// The SDP that was offered.
    pub fn offer(&self) -> &str {
        &self.offer
    }

    /// The SDP that was answered.
    pub fn answer(&self) -> &str {
        &self.accepted.answer
    }

    /// When the POST began.
    pub const fn posted_at(&self) -> Instant {
        self.posted
    }

    /// Counters as of now.
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let connected = self
            .shared
            .connected
            .borrow()
            .map_or(Duration::ZERO, |at| at - self.posted);
        Stats {
            post_ms: self.post_time.as_secs_f64() * 1e3,
            connected_ms: connected.as_secs_f64() * 1e3,
            packets: read(&counters.packets),
            bytes: read(&counters.bytes),
            pictures: read(&counters.pictures),
            lost: read(&counters.lost),
            nacked: read(&counters.nacked),
            retransmitted: read(&counters.retransmitted),
            keyframe_requests: read(&counters.keyframe_requests),
            keyframe_request_gap_ms: read(&counters.keyframe_request_gap),
            sender_reports: read(&counters.sender_reports),
            ice_disconnects: read(&counters.ice_disconnects),
            unsent: read(&counters.unsent),
            source_dropped: read(&self.shared.source_dropped),
            late_ms: read(&counters.late_micros) as f64 / 1e3,
        }
    }

    /// Why the publication is over, if it is.
    pub fn ended(&self) -> Option<Ended> {
        *self.shared.ended.borrow()
    }

    /// Waits until the publication is over, for whatever reason.
    pub async fn wait_ended(&self) -> Ended {
        let mut ended = self.shared.ended.subscribe();
        let seen = ended.wait_for(Option::is_some).await;
        seen.ok().and_then(|ended| *ended).unwrap_or(Ended::Failed)
    }

    /// Stops (or resumes) sending media while the connection stays, as a muted source does.
    pub async fn pause(&self, video: bool, audio: bool) {
        // A publication that is over has nothing to pause.
        drop(self.commands.send(Command::Pause { video, audio }).await);
    }

    /// Changes the source of video, audio or both from their next units on.
    pub async fn change(&self, video: Option<Change>, audio: Option<Change>) {
        // A publication that is over has nothing to change.
        drop(self.commands.send(Command::Change { video, audio }).await);
    }

    /// Media time of each picture sent so far, by the number in its stamp.
    pub fn pictures(&self) -> Vec<Duration> {
        self.shared
            .pictures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends properly: DELETE of the session URL, then DTLS close. An answer other than 2xx is an error.
    pub async fn stop(self) -> Result<Stats> {
        let status = self.whip.delete(&self.accepted.session).await;
        let stats = self.hang_up().await;
        let status = status?;
        ensure!(
            (200..300).contains(&status),
            "the gateway answered {status} to DELETE"
        );
        Ok(stats)
    }

    /// Ends by DTLS close without DELETE, as a closed browser tab does.
    pub async fn hang_up(self) -> Stats {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            // Bounded, in case the network side hangs; an error means the task is over already.
            drop(tokio::time::timeout(Duration::from_secs(2), closed).await);
        }
        self.stats()
    }

    /// Disappears at once: no DELETE, no DTLS close, no RTCP BYE.
    pub fn vanish(self) -> Stats {
        self.stats()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sources of the asked-for tracks, video first; encodes clips and starts live encoders.
async fn prepare(options: &PublishOptions) -> Result<(Vec<TrackSource>, Option<Live>)> {
    let (video, audio) = (options.video.clone(), options.audio.clone());
    let (video_path, audio_path) = (options.video_path, options.audio_path);
    let prepared = tokio::task::spawn_blocking(move || -> Result<_> {
        let mut tracks = Vec::new();
        let mut live = None;
        let mut live_audio = None;
        if let Some(video) = video {
            let (codec, size, feed) = match video {
                VideoSource::Live(spec) => {
                    let (source, pictures, sound) = Live::start(&spec)?;
                    live = Some(source);
                    live_audio = Some(sound);
                    let size = (spec.format.width as u16, spec.format.height as u16);
                    (
                        spec.format.codec,
                        size,
                        Feed::Live {
                            units: pictures,
                            ended: false,
                        },
                    )
                }
                VideoSource::Clip(spec) => clip_feed(&[spec])?,
                VideoSource::Sequence(specs) => clip_feed(&specs)?,
            };
            tracks.push(TrackSource {
                codec: Some(codec),
                feed,
                size,
                path: video_path,
            });
        }
        if let Some(audio) = audio {
            let feed = match audio {
                AudioSource::Clip(spec) => Feed::clips(vec![Clip::audio(&spec)?]),
                AudioSource::Sequence(specs) => {
                    Feed::clips(specs.iter().map(Clip::audio).collect::<Result<_>>()?)
                }
                AudioSource::Live => {
                    let units = live_audio.context("live audio needs live video")?;
                    Feed::Live {
                        units,
                        ended: false,
                    }
                }
            };
            tracks.push(TrackSource {
                codec: None,
                feed,
                size: (0, 0),
                path: audio_path,
            });
        }
        Ok((tracks, live))
    });
    prepared.await.context("the source panicked")?
}

fn clip_feed(specs: &[ClipSpec]) -> Result<(crate::codec::VideoCodec, (u16, u16), Feed)> {
    let first = specs.first().context("a sequence without clips")?;
    let codec = first.format.codec;
    ensure!(
        specs.iter().all(|spec| spec.format.codec == codec),
        "a sequence of different codecs"
    );
    let clips = specs.iter().map(Clip::video).collect::<Result<Vec<_>>>()?;
    let size = clips.first().map_or((0, 0), |clip| clip.size);
    Ok((codec, size, Feed::clips(clips)))
}

fn configure(tracks: &[TrackSource], options: &PublishOptions) -> RtcConfig {
    let mut config = RtcConfig::new()
        .clear_codecs()
        .set_rtp_mode(true)
        .enable_raw_packets(true)
        .set_rtcp_report_interval_audio(REPORT_GRAIN)
        .set_rtcp_report_interval_video(REPORT_GRAIN);
    config.set_initial_stun_rto(Duration::from_millis(100));
    for track in tracks {
        match track.codec {
            Some(codec) => codec.offer(&mut config, options.rtx),
            None => offer_opus(&mut config),
        }
    }
    config
}

/// Reads from str0m what the answer left of our offer, and takes the streams back until their first packet.
fn negotiate(
    rtc: &mut Rtc,
    sources: Vec<TrackSource>,
    mids: &[Mid],
    options: &PublishOptions,
) -> Result<Vec<Track>> {
    let params = rtc.codec_config().params().to_vec();
    let mut tracks = Vec::new();
    for (index, (source, mid)) in sources.into_iter().zip(mids.iter().copied()).enumerate() {
        let kind = source.kind();
        let media = rtc.media(mid).context("no such media line")?;
        ensure!(!media.disabled(), "the answer refused the {kind} line");
        let param = params
            .iter()
            .find(|param| media.remote_pts().contains(&param.pt()))
            .with_context(|| format!("the answer accepted no codec of the {kind} line"))?;
        let rtx_accepted = param
            .resend()
            .is_some_and(|resend| media.remote_pts().contains(&resend));
        let pt = param.pt();
        let mut api = rtc.direct_api();
        let stream = api
            .stream_tx_by_mid(mid, None)
            .with_context(|| format!("str0m has no stream for {kind}"))?;
        let (ssrc, rtx) = (stream.ssrc(), stream.rtx());
        api.remove_stream_tx(ssrc);
        let net = Negotiated {
            mid,
            pt,
            ssrc,
            rtx,
            rtx_accepted,
        };
        let start = (
            options
                .first_sequence_number
                .unwrap_or_else(|| rand::random::<u16>() >> 1),
            options.first_timestamp.unwrap_or_else(rand::random),
        );
        tracks.push(Track::new(
            source,
            net,
            start,
            options.seed.wrapping_add(index as u64 * 1_000_003),
        ));
    }
    Ok(tracks)
}

/// The address from which the URL's host is reached.
async fn local_address(url: &str) -> Result<IpAddr> {
    let url = Url::parse(url)?;
    let host = url
        .host_str()
        .context("the URL has no host")?
        .trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(80);
    let mut found = tokio::net::lookup_host((host, port))
        .await
        .with_context(|| format!("cannot resolve {host}"))?;
    let remote: SocketAddr = found
        .next()
        .with_context(|| format!("{host} has no address"))?;
    let any: IpAddr = if remote.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let probe = UdpSocket::bind((any, 0)).await?;
    probe.connect(remote).await?;
    Ok(probe.local_addr()?.ip())
}
