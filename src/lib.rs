//! A gateway that takes live streams over WHIP (RFC 9725) and turns each one into low-latency HLS and an MP4 recording.

#![forbid(unsafe_code)]

pub mod config;
pub mod gateway;
pub mod hls;
pub mod http;
pub mod id;
pub mod media;
pub mod pipeline;
pub mod recording;
pub mod session;
pub mod telemetry;
pub mod timeline;
pub mod transport;
pub mod whip;
