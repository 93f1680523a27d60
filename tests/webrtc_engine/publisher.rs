//! A publisher on `str0m`, an independent WebRTC stack, over real loopback sockets.

use std::{
    collections::HashSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use str0m::{
    Candidate, Event, IceConnectionState, Input, Output, Rtc, RtcConfig,
    change::{SdpAnswer, SdpPendingOffer},
    config::DtlsCert,
    media::{Direction, MediaKind, Mid, Pt},
    net::{Protocol, Receive, TcpType},
    rtp::{RtpWrite, SeqNo},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};
use whipgate::transport::{IceCredentials, IceRestart};

enum Way {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// The lines of a description that are wanted.
fn lines(sdp: &str, wanted: impl Fn(&str) -> bool) -> String {
    let mut kept: Vec<&str> = sdp.lines().filter(|line| wanted(line)).collect();
    kept.push("");
    kept.join("\r\n")
}

pub(crate) struct Publisher {
    rtc: Rtc,
    way: Way,
    local: SocketAddr,
    remote: Option<SocketAddr>,
    buffer: Vec<u8>,
    pub(crate) audio: Mid,
    pub(crate) video: Mid,
    offer: String,
    answer: String,
    pending: Option<SdpPendingOffer>,
    pub(crate) connected: bool,
    /// Its ICE agent knows a way to the server.
    pub(crate) has_path: bool,
    pub(crate) keyframe_requests: usize,
    /// The stack has given up: a fatal alert came, for one.
    pub(crate) failed: bool,
    /// Where datagrams came from.
    pub(crate) sources: HashSet<SocketAddr>,
}

impl Publisher {
    pub(crate) async fn udp() -> Self {
        Self::udp_with(None).await
    }

    /// With a certificate and its PKCS 8 key, both DER.
    pub(crate) async fn with_certificate(certificate: &[u8], private_key: &[u8]) -> Self {
        Self::udp_with(Some(DtlsCert {
            certificate: certificate.to_vec(),
            private_key: private_key.to_vec(),
        }))
        .await
    }

    async fn udp_with(certificate: Option<DtlsCert>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let local = socket.local_addr().unwrap();
        let candidate = Candidate::host(local, "udp").unwrap();
        Self::new(Way::Udp(socket), local, None, candidate, certificate)
    }

    pub(crate) async fn tcp(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).await.unwrap();
        let local = stream.local_addr().unwrap();
        let candidate = Candidate::builder()
            .tcp()
            .host(local)
            .tcptype(TcpType::Active)
            .build()
            .unwrap();
        Self::new(Way::Tcp(stream), local, Some(server), candidate, None)
    }

    fn new(
        way: Way,
        local: SocketAddr,
        remote: Option<SocketAddr>,
        candidate: Candidate,
        certificate: Option<DtlsCert>,
    ) -> Self {
        let mut config = RtcConfig::new();
        if let Some(certificate) = certificate {
            config = config.set_dtls_cert(certificate);
        }
        let mut rtc = config
            .set_crypto_provider(std::sync::Arc::new(str0m::crypto::from_feature_flags()))
            .clear_codecs()
            .enable_opus(true, false)
            .enable_h264(true)
            .set_rtp_mode(true)
            .set_rtcp_report_interval_audio(Duration::from_millis(50))
            .set_rtcp_report_interval_video(Duration::from_millis(50))
            .build(Instant::now());
        rtc.add_local_candidate(candidate).unwrap();
        let mut changes = rtc.sdp_api();
        let audio = changes.add_media(MediaKind::Audio, Direction::SendOnly, None, None, None);
        let video = changes.add_media(MediaKind::Video, Direction::SendOnly, None, None, None);
        let (offer, pending) = changes.apply().unwrap();
        Self {
            rtc,
            way,
            local,
            remote,
            buffer: Vec::new(),
            audio,
            video,
            offer: offer.to_sdp_string(),
            answer: String::new(),
            pending: Some(pending),
            connected: false,
            has_path: false,
            keyframe_requests: 0,
            failed: false,
            sources: HashSet::new(),
        }
    }

    /// The offer, without candidates: the server must find out by itself where its publisher is.
    pub(crate) fn offer(&self) -> String {
        lines(&self.offer, |line| !line.starts_with("a=candidate"))
    }

    /// Takes the answer, of which only candidates of the way in use are kept.
    pub(crate) fn accept(&mut self, answer: &str) {
        let unwanted = match self.way {
            Way::Udp(_) => " tcp ",
            Way::Tcp(_) => " udp ",
        };
        let answer = lines(answer, |line| {
            !(line.starts_with("a=candidate") && line.contains(unwanted))
        });
        self.answer.clone_from(&answer);
        let answer = SdpAnswer::from_sdp_string(&answer).expect("str0m reads the answer");
        self.rtc
            .sdp_api()
            .accept_answer(self.pending.take().unwrap(), answer)
            .expect("str0m takes the answer");
    }

    /// Begins an ICE restart; returns what the server must be told (RFC 9725 section 4.3.3).
    pub(crate) fn restart(&mut self) -> IceCredentials {
        let mut changes = self.rtc.sdp_api();
        let ice = changes.ice_restart(true);
        let (_offer, pending) = changes.apply().unwrap();
        self.pending = Some(pending);
        IceCredentials {
            ufrag: ice.ufrag,
            pwd: ice.pass,
        }
    }

    /// Moves to another socket, as a phone that leaves its network; the old one is deaf from now on.
    pub(crate) async fn move_on(&mut self) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        self.local = socket.local_addr().unwrap();
        self.way = Way::Udp(socket);
        let candidate = Candidate::host(self.local, "udp").unwrap();
        self.rtc.add_local_candidate(candidate).unwrap();
    }

    /// Takes the server's side of the restart: the last answer with other credentials.
    pub(crate) fn accept_restart(&mut self, restart: &IceRestart) {
        let mut answer = String::new();
        for line in self.answer.lines() {
            let line = if line.starts_with("a=ice-ufrag:") {
                format!("a=ice-ufrag:{}", restart.ice.ufrag)
            } else if line.starts_with("a=ice-pwd:") {
                format!("a=ice-pwd:{}", restart.ice.pwd)
            } else {
                line.to_owned()
            };
            answer.push_str(&line);
            answer.push_str("\r\n");
        }
        self.accept(&answer);
    }

    /// Where it sends from.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Payload type negotiated for a line.
    pub(crate) fn payload_type(&mut self, mid: Mid) -> Pt {
        self.rtc.media(mid).unwrap().remote_pts()[0]
    }

    pub(crate) fn write(&mut self, mid: Mid, number: u64, timestamp: u32, payload: &[u8]) {
        let pt = self.payload_type(mid);
        let mut direct = self.rtc.direct_api();
        let stream = direct
            .stream_tx_by_mid(mid, None)
            .expect("a stream to send on");
        stream.write_rtp(
            RtpWrite::new(
                pt,
                SeqNo::from(number),
                timestamp,
                Instant::now(),
                payload.to_vec(),
            )
            .marker(true),
        );
    }

    pub(crate) fn close(&mut self) {
        self.rtc.close().unwrap();
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.rtc.is_alive()
    }

    /// Runs until `done` says so; panics after 10 s.
    pub(crate) async fn run(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done(self) {
            assert!(Instant::now() < deadline, "the publisher got stuck");
            self.turn(Duration::from_millis(5)).await;
        }
    }

    /// Sends what there is to send, then reads for `pause` at most.
    pub(crate) async fn turn(&mut self, pause: Duration) {
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(_)) => break,
                Ok(Output::Transmit(transmit)) => {
                    self.send(transmit.destination, &transmit.contents).await;
                }
                Ok(Output::Event(Event::IceConnectionStateChange(state))) => {
                    self.has_path = !state.is_disconnected()
                        && !matches!(
                            state,
                            IceConnectionState::New | IceConnectionState::Checking
                        );
                }
                Ok(Output::Event(Event::Connected)) => self.connected = true,
                Ok(Output::Event(Event::KeyframeRequest(_))) => self.keyframe_requests += 1,
                Ok(Output::Event(_)) => {}
                Err(_) => self.failed = true,
            }
            if self.failed {
                return;
            }
        }
        if let Ok((from, datagram)) = tokio::time::timeout(pause, self.receive()).await {
            self.sources.insert(from);
            let proto = match self.way {
                Way::Udp(_) => Protocol::Udp,
                Way::Tcp(_) => Protocol::Tcp,
            };
            let receive = Receive::new(proto, from, self.local, &datagram).unwrap();
            let input = Input::Receive(Instant::now(), receive);
            self.failed |= self.rtc.handle_input(input).is_err();
        }
        let input = Input::Timeout(Instant::now());
        self.failed |= self.rtc.handle_input(input).is_err();
    }

    async fn send(&mut self, to: SocketAddr, datagram: &[u8]) {
        match &mut self.way {
            Way::Udp(socket) => {
                socket.send_to(datagram, to).await.unwrap();
            }
            Way::Tcp(stream) => {
                let mut frame = u16::try_from(datagram.len())
                    .unwrap()
                    .to_be_bytes()
                    .to_vec();
                frame.extend_from_slice(datagram);
                // The server may have closed the connection.
                let _gone = stream.write_all(&frame).await;
            }
        }
    }

    /// Cancellation safe: what was read of a frame stays in the buffer.
    async fn receive(&mut self) -> (SocketAddr, Vec<u8>) {
        match &mut self.way {
            Way::Udp(socket) => {
                let mut datagram = vec![0; 2048];
                let (len, from) = socket.recv_from(&mut datagram).await.unwrap();
                datagram.truncate(len);
                (from, datagram)
            }
            Way::Tcp(stream) => loop {
                if let Some((head, rest)) = self.buffer.split_first_chunk::<2>() {
                    let length = usize::from(u16::from_be_bytes(*head));
                    if rest.len() >= length {
                        let frame = rest[..length].to_vec();
                        self.buffer.drain(..length + 2);
                        return (self.remote.unwrap(), frame);
                    }
                }
                if stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                    std::future::pending::<()>().await;
                }
            },
        }
    }
}
