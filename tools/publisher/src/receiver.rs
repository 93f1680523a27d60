//! A small WHIP endpoint on str0m: takes one publisher at a time and reports what arrives, depacketised.
//!
//! It stands in for the gateway where the client itself is under test or suspicion. It records nothing and serves no HLS.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use str0m::{
    Candidate, Event, Input, Output, Rtc, RtcConfig, RtcError,
    change::SdpOffer,
    media::{KeyframeRequestKind, MediaKind, Mid},
    net::{Protocol, Receive},
};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    task::JoinHandle,
};

use crate::{
    codec::{VideoCodec, offer_opus},
    http::{Request, respond},
};

/// Reports that may wait for [`Receiver::next`]; more are dropped.
const QUEUE: usize = 16_384;

/// How the endpoint behaves.
#[derive(Clone, Debug)]
pub struct ReceiverOptions {
    /// Where to listen for HTTP.
    pub listen: SocketAddr,
    /// Bearer token to insist on.
    pub token: Option<String>,
    /// The video codec to accept.
    pub codec: VideoCodec,
    /// Accept RTX.
    pub rtx: bool,
}

impl Default for ReceiverOptions {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            token: None,
            codec: VideoCodec::H264,
            rtx: true,
        }
    }
}

/// Something that happened to the publication.
#[derive(Clone, Debug)]
pub enum Received {
    /// DTLS is connected.
    Connected,
    /// One access unit (H.264, H.265: Annex B) or audio packet.
    Unit {
        /// Video or audio.
        kind: MediaKind,
        /// RTP timestamp, unwrapped.
        timestamp: u64,
        /// The bytes.
        data: Arc<[u8]>,
        /// Nothing is missing between this unit and the one before.
        contiguous: bool,
    },
    /// An RTCP sender report.
    SenderReport {
        /// Video or audio.
        kind: MediaKind,
        /// Wall clock.
        ntp: SystemTime,
        /// RTP timestamp at that time, modulo 2^32.
        timestamp: u32,
    },
    /// DELETE was received.
    Deleted,
    /// DTLS is closed by the publisher.
    Closed,
}

enum Order {
    Keyframe,
    Close,
}

/// The running endpoint; ends when dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    received: mpsc::Receiver<Received>,
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Listens.
    pub async fn start(options: ReceiverOptions) -> Result<Self> {
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("cannot listen on {}", options.listen))?;
        let address = listener.local_addr()?;
        let (reports, received) = mpsc::channel(QUEUE);
        let (orders, taken) = mpsc::channel(8);
        let task = tokio::spawn(serve(listener, options, reports, taken));
        Ok(Self {
            address,
            received,
            orders,
            task,
        })
    }

    /// The WHIP endpoint to publish to.
    pub fn url(&self) -> String {
        format!("http://{}/whip/test", self.address)
    }

    /// What happens next; `None` if the endpoint failed.
    pub async fn next(&mut self) -> Option<Received> {
        self.received.recv().await
    }

    /// Sends a PLI for the video track.
    pub async fn request_keyframe(&self) {
        self.order(Order::Keyframe).await;
    }

    /// Closes DTLS from this side.
    pub async fn close(&self) {
        self.order(Order::Close).await;
    }

    async fn order(&self, order: Order) {
        if self.orders.send(order).await.is_err() {
            tracing::warn!("the receiver has ended");
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    options: ReceiverOptions,
    reports: mpsc::Sender<Received>,
    mut orders: mpsc::Receiver<Order>,
) {
    loop {
        let peer = match accept(&listener, &options).await {
            Ok(Some(peer)) => peer,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!("refused a request: {error:#}");
                continue;
            }
        };
        if let Err(error) = Box::pin(peer.run(&listener, &reports, &mut orders)).await {
            tracing::warn!("the publication failed: {error:#}");
        }
    }
}

async fn accept(listener: &TcpListener, options: &ReceiverOptions) -> Result<Option<Peer>> {
    let (mut stream, _) = listener.accept().await?;
    let request = Request::read(&mut stream).await?;
    let wanted = options
        .token
        .as_ref()
        .map(|token| format!("Bearer {token}"));
    if wanted.is_some() && request.header("authorization") != wanted.as_deref() {
        respond(stream, 401, &[], b"token missing or wrong").await?;
        return Ok(None);
    }
    if request.method != "POST" {
        respond(stream, 404, &[], b"no such session").await?;
        return Ok(None);
    }
    let offer = SdpOffer::from_sdp_string(std::str::from_utf8(&request.body)?)?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let local = socket.local_addr()?;
    let mut config = RtcConfig::new()
        .clear_codecs()
        .set_reordering_size_video(1000);
    options.codec.offer(&mut config, options.rtx);
    offer_opus(&mut config);
    let mut rtc = config.build(Instant::now());
    rtc.add_local_candidate(Candidate::host(local, "udp")?);
    let answer = match rtc.sdp_api().accept_offer(offer) {
        Ok(answer) => answer.to_sdp_string(),
        Err(error) => {
            respond(stream, 422, &[], error.to_string().as_bytes()).await?;
            return Ok(None);
        }
    };
    let headers = [
        ("Content-Type", "application/sdp"),
        ("Location", "/whip/test/1"),
        ("ETag", "\"1\""),
    ];
    respond(stream, 201, &headers, answer.as_bytes()).await?;
    Ok(Some(Peer {
        rtc,
        socket,
        local,
        kinds: HashMap::new(),
    }))
}

struct Peer {
    rtc: Rtc,
    socket: UdpSocket,
    local: SocketAddr,
    kinds: HashMap<Mid, MediaKind>,
}

impl Peer {
    async fn run(
        mut self,
        listener: &TcpListener,
        reports: &mpsc::Sender<Received>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Result<()> {
        let mut buffer = vec![0; 2048];
        while self.rtc.is_alive() {
            let timeout = self
                .flush(reports)
                .await?
                .min(Instant::now() + Duration::from_secs(1));
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => {
                    let (len, source) = received?;
                    if let Ok(datagram) = Receive::new(Protocol::Udp, source, self.local, &buffer[..len]) {
                        self.rtc.handle_input(Input::Receive(Instant::now(), datagram))?;
                    }
                }
                order = orders.recv() => match order {
                    Some(Order::Keyframe) => self.request_keyframe()?,
                    Some(Order::Close) | None => self.rtc.close()?,
                },
                accepted = listener.accept() => {
                    if self.on_http(accepted?.0).await? {
                        report(reports, Received::Deleted);
                    }
                }
                () = tokio::time::sleep_until(timeout.into()) => {
                    self.rtc.handle_input(Input::Timeout(Instant::now()))?;
                }
            }
        }
        self.flush(reports).await.map(drop)
    }

    /// True if the session was deleted.
    async fn on_http(&self, mut stream: TcpStream) -> Result<bool> {
        let request = Request::read(&mut stream).await?;
        let deleted = request.method == "DELETE" && request.path == "/whip/test/1";
        respond(stream, if deleted { 200 } else { 404 }, &[], b"").await?;
        Ok(deleted)
    }

    fn request_keyframe(&mut self) -> Result<()> {
        let video = self
            .kinds
            .iter()
            .find(|(_, kind)| kind.is_video())
            .map(|(mid, _)| *mid);
        let mid = video.context("no video line")?;
        let mut writer = self.rtc.writer(mid).context("no such media line")?;
        writer
            .request_keyframe(None, KeyframeRequestKind::Pli)
            .map_err(Into::into)
    }

    async fn flush(&mut self, reports: &mpsc::Sender<Received>) -> Result<Instant> {
        loop {
            let output = match self.rtc.poll_output() {
                Err(RtcError::Packet(_, _, error)) => {
                    tracing::debug!(%error, "ignored an unreadable payload");
                    continue;
                }
                output => output?,
            };
            match output {
                Output::Timeout(at) if at <= Instant::now() && self.rtc.is_alive() => {
                    self.rtc.handle_input(Input::Timeout(Instant::now()))?;
                }
                Output::Timeout(at) => return Ok(at),
                Output::Transmit(transmit) => {
                    if let Err(error) = self
                        .socket
                        .send_to(&transmit.contents, transmit.destination)
                        .await
                    {
                        tracing::debug!(%error, "cannot send");
                    }
                }
                Output::Event(event) => self.on_event(event, reports),
            }
        }
    }

    fn on_event(&mut self, event: Event, reports: &mpsc::Sender<Received>) {
        let kind = |mid: &Mid| self.kinds.get(mid).copied().unwrap_or(MediaKind::Video);
        match event {
            Event::MediaAdded(added) => {
                self.kinds.insert(added.mid, added.kind);
            }
            Event::Connected => report(reports, Received::Connected),
            Event::MediaData(media) => report(
                reports,
                Received::Unit {
                    kind: kind(&media.mid),
                    timestamp: media.time.numer(),
                    data: media.data,
                    contiguous: media.contiguous,
                },
            ),
            Event::SenderFeedback(feedback) => report(
                reports,
                Received::SenderReport {
                    kind: kind(&feedback.mid),
                    ntp: feedback.sender_info.ntp_time,
                    timestamp: feedback.sender_info.rtp_time.numer() as u32,
                },
            ),
            Event::Closed => report(reports, Received::Closed),
            _ => {}
        }
    }
}

fn report(reports: &mpsc::Sender<Received>, received: Received) {
    if reports.try_send(received).is_err() {
        tracing::warn!("nobody takes what is received");
    }
}
