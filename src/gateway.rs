//! The whole gateway as one value: [`Gateway::load`] binds and opens everything, [`Gateway::run`] serves until it is told
//! to stop. Assembly only; every decision belongs to the module that is assembled here.
//!
//! Order at the start: GStreamer and the pipelines (nothing is bound when they are wrong), the data folder with the
//! repair of what a crash left, the WebRTC ports, at last HTTP, so that whoever reaches the gateway reaches a complete
//! one. Order at the end: new publishers are refused, peers are closed with DTLS, playlists end, recordings are
//! completed, and HTTP goes last so that viewers get the tail.

use std::{fmt, net::SocketAddr, sync::Arc, thread, time::Duration};

use crate::{
    config::{self, Config},
    hls,
    http::{self, AppState, PublishTokens, Readiness, Server, ServerError, SessionsView},
    media::{AudioFormat, Codec, MediaKind},
    pipeline::{self, PipelineError, Pipelines, Text},
    recording::{self, RecordingError, Store},
    session::{self, Sessions},
    telemetry::Metrics,
    transport::{
        OnConflict, PublishOptions,
        webrtc::{BindError, PublicAddress, WebRtc, WebRtcConfig},
    },
    whip::{self, InvalidIceServer, WhipEndpoint},
};

/// Least length of a stream's first segment. Players begin when it is complete, and each needs two parts of it at least.
const FIRST_SEGMENT: Duration = Duration::from_millis(400);

/// How long recordings may take to be completed at shutdown.
const RECORDINGS_LIMIT: Duration = Duration::from_secs(5);

/// Why the gateway cannot start or had to stop. Every message names the cause and the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// A pipeline text is wrong or a GStreamer element is missing.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The folder of recordings cannot be used.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// A WebRTC port cannot be had.
    #[error(transparent)]
    WebRtc(#[from] BindError),
    /// The HTTP address cannot be had, or serving failed.
    #[error(transparent)]
    Http(#[from] ServerError),
    /// An ICE server of the configuration cannot be offered.
    #[error("webrtc.ice_servers: {0}")]
    IceServer(#[from] InvalidIceServer),
    /// The media threads cannot be started.
    #[error("cannot start the media threads: {0}")]
    Workers(#[source] std::io::Error),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] std::io::Error),
}

/// Ends a running [`Gateway`] from anywhere; see [`Gateway::handle`].
#[derive(Clone, Debug)]
pub struct GatewayHandle {
    sessions: Sessions,
    recordings: Option<Arc<Store>>,
    webrtc: Arc<WebRtc>,
    readiness: Arc<Readiness>,
    http: http::ServerHandle,
}

impl GatewayHandle {
    /// Refuses new publishers, closes peers, ends playlists, completes recordings and stops serving. Takes 10 s at most.
    pub async fn shutdown(&self) {
        self.readiness.drain();
        self.sessions.shutdown().await;
        self.webrtc.shutdown().await;
        if let Some(store) = self.recordings.clone() {
            let closed = tokio::task::spawn_blocking(move || store.close(RECORDINGS_LIMIT)).await;
            if !matches!(closed, Ok(true)) {
                tracing::warn!("not every recording could be completed; the next start does it");
            }
        }
        self.http.stop().await;
    }
}

/// The gateway with everything bound and opened.
///
/// # Examples
///
/// ```no_run
/// use whipgate::{config::Config, gateway::Gateway};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let mut config = Config::default();
/// config.storage.data_dir = "/var/lib/whipgate".into();
/// Gateway::load(config).await?.run().await?;
/// # Ok(())
/// # }
/// ```
pub struct Gateway {
    server: Server,
    sessions: Sessions,
    handle: GatewayHandle,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("http", &self.server)
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// Opens and binds everything a configuration asks for. Must be called within a tokio runtime with threads of its
    /// own, which then carries the sessions.
    ///
    /// # Errors
    ///
    /// The first thing that cannot be had.
    pub async fn load(config: Config) -> Result<Self, GatewayError> {
        http::install_crypto_provider();
        let pipelines = Arc::new(Pipelines::load_only(
            config.pipelines.dir.as_deref(),
            &pipeline_texts(&config),
        )?);
        for (text, elements) in pipelines.lacking() {
            let missing = PipelineError::MissingElements(elements.clone());
            tracing::warn!("no {text}: {missing}");
        }
        let recordings = config
            .recording
            .enabled
            .then(|| open_recordings(&config))
            .transpose()?;
        let webrtc = WebRtc::bind(WebRtcConfig {
            listen_udp: config.listen_udp(),
            listen_tcp: Some(config.listen_tcp()),
            public_addresses: config
                .webrtc
                .public_addresses
                .iter()
                .copied()
                .map(PublicAddress::Ip)
                .collect(),
            video_codecs: config.webrtc.video_codecs.clone(),
            transcoded_codecs: transcoded_codecs(&config),
            ..WebRtcConfig::default()
        })
        .await?;
        let metrics = Metrics::new();
        let sessions = Sessions::new(
            session_settings(&config),
            Arc::clone(&webrtc) as _,
            pipelines,
            recordings.clone(),
            Arc::clone(&metrics),
        )
        .map_err(GatewayError::Workers)?;
        let readiness = Arc::new(Readiness::default());
        let state = AppState::new(
            &config,
            Arc::new(sessions.clone()) as Arc<dyn SessionsView>,
            recordings.clone(),
            metrics,
            Arc::clone(&readiness),
        );
        let whip = whip_endpoint(&config, sessions.clone())?;
        let server = Server::bind(&config, state, move |cfg| {
            whip.configure(cfg);
            http::pages(cfg);
        })?;
        let handle = GatewayHandle {
            sessions: sessions.clone(),
            recordings,
            webrtc,
            readiness,
            http: server.handle(),
        };
        Ok(Self {
            server,
            sessions,
            handle,
        })
    }

    /// Where HTTP listens.
    pub fn http_address(&self) -> SocketAddr {
        // A server without an address would not have been bound.
        self.server
            .addresses()
            .first()
            .copied()
            .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        self.server.scheme()
    }

    /// The sessions, for an embedder that wants to look at them.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Ends this gateway from anywhere.
    pub fn handle(&self) -> GatewayHandle {
        self.handle.clone()
    }

    /// Serves until SIGTERM or SIGINT (a second one ends at once) or until [`GatewayHandle::shutdown`].
    ///
    /// # Errors
    ///
    /// When signals cannot be waited for or serving fails.
    pub async fn run(self) -> Result<(), GatewayError> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(GatewayError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(GatewayError::Signals)?;
        self.handle.readiness.ready();
        let serving = self.server.run();
        tokio::pin!(serving);
        tokio::select! {
            ended = &mut serving => return Ok(ended?),
            _ = terminate.recv() => tracing::info!("SIGTERM: shutting down"),
            _ = interrupt.recv() => tracing::info!("interrupted: shutting down"),
        }
        let handle = self.handle.clone();
        let mut shutdown = tokio::spawn(async move { handle.shutdown().await });
        let mut served = false;
        loop {
            tokio::select! {
                ended = &mut serving, if !served => {
                    ended?;
                    served = true;
                }
                done = &mut shutdown => {
                    if let Err(error) = done {
                        tracing::error!(%error, "the shutdown broke");
                    }
                    tracing::info!("bye");
                    return Ok(());
                }
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
            }
        }
    }
}

/// The pipeline texts that a configuration needs, and with them their GStreamer elements.
pub fn pipeline_texts(config: &Config) -> Vec<Text> {
    let passed_through = Codec::ALL
        .into_iter()
        .filter(|codec| codec.transcoded_to().is_none());
    let codecs: Vec<_> = passed_through.chain(transcoded_codecs(config)).collect();
    let aac = config.hls.audio.contains(&AudioFormat::Aac);
    let sound = codecs
        .iter()
        .filter(|codec| aac && codec.kind() == MediaKind::Audio);
    codecs
        .iter()
        .copied()
        .map(Text::Main)
        .chain(sound.copied().map(Text::Aac))
        .chain(Text::posters())
        .collect()
}

/// What is taken by transcoding, best first.
fn transcoded_codecs(config: &Config) -> Vec<Codec> {
    let vp8 = config.webrtc.transcode_vp8.then_some(Codec::Vp8);
    vp8.into_iter()
        .chain(config.webrtc.transcode_audio.iter().copied())
        .collect()
}

fn open_recordings(config: &Config) -> Result<Arc<Store>, RecordingError> {
    let store = Store::open(
        config.storage.data_dir.join("recordings"),
        recording::Options::default(),
    )?;
    for report in store.repair()? {
        tracing::info!(path = %report.path.display(), outcome = ?report.outcome, "a recording was left unfinished");
    }
    Ok(Arc::new(store))
}

fn session_settings(config: &Config) -> session::Settings {
    session::Settings {
        publish: PublishOptions {
            on_conflict: match config.session.on_conflict {
                config::OnConflict::Probe => OnConflict::Probe,
                config::OnConflict::Replace => OnConflict::Replace,
                config::OnConflict::Reject => OnConflict::Reject,
            },
            runtime: tokio::runtime::Handle::try_current().ok(),
            ..PublishOptions::default()
        },
        hls: hls::Settings {
            part_duration: config.hls.part_duration,
            segment_duration: config.hls.segment_duration,
            first_segment: FIRST_SEGMENT.min(config.hls.segment_duration),
            window: config.hls.window,
            dvr: config.hls.dvr,
            audio: config.hls.audio.clone(),
            max_waiters: config.limits.waiters,
            ..hls::Settings::default()
        },
        pipeline: pipeline::Settings {
            part_duration: config.hls.part_duration,
            segment_duration: config.hls.segment_duration,
            track_id: 1,
        },
        keyframe_interval: config.keyframe_interval(),
        reconnect_grace: config.session.reconnect_grace,
        checkpoints: Some(config.storage.data_dir.join("state").join("playlists")),
        max_sessions: config.session.max_sessions,
        known_sessions: config.session.known_sessions.clone(),
        workers: thread::available_parallelism().map_or(2, usize::from),
    }
}

fn whip_endpoint(
    config: &Config,
    sessions: Sessions,
) -> Result<WhipEndpoint<Sessions>, GatewayError> {
    let servers = config
        .webrtc
        .ice_servers
        .iter()
        .map(|server| match (&server.username, &server.credential) {
            (Some(username), Some(credential)) => {
                whip::IceServer::turn(&server.url, username, &credential.expose().into())
            }
            _ => whip::IceServer::stun(&server.url),
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(WhipEndpoint::new(sessions)
        .authorize(Arc::new(PublishTokens::new(config)))
        .cors_origins(config.http.cors_origins.iter().cloned())
        .ice_servers(&servers)
        .limits(whip::Limits {
            body: config.limits.body_bytes.as_usize(),
            body_time: config.limits.body_timeout,
        }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_configured_needs_its_text() {
        let texts = |change: fn(&mut Config)| {
            let mut config = Config::default();
            config.webrtc.transcode_audio.clear();
            change(&mut config);
            let mut texts = pipeline_texts(&config);
            let posters = texts.split_off(texts.len() - 4);
            assert_eq!(posters, Text::posters().collect::<Vec<_>>());
            texts
        };
        let passed_through = texts(|_| {});
        assert_eq!(passed_through.len(), 5);
        assert!(!passed_through.contains(&Text::Main(Codec::Vp8)));
        let vp8 = texts(|config| config.webrtc.transcode_vp8 = true);
        assert_eq!(vp8.last(), Some(&Text::Main(Codec::Vp8)));
        let aac = texts(|config| config.hls.audio = vec![AudioFormat::Aac]);
        assert_eq!(aac.last(), Some(&Text::Aac(Codec::Opus)));
        assert_eq!(aac.len(), 6);
        let both = texts(|config| {
            config.hls.audio = vec![AudioFormat::Opus, AudioFormat::Aac];
            config.webrtc.transcode_audio = vec![Codec::Pcmu];
        });
        assert_eq!(
            both[5..],
            [
                Text::Main(Codec::Pcmu),
                Text::Aac(Codec::Opus),
                Text::Aac(Codec::Pcmu)
            ]
        );
    }
}
