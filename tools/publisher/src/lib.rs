//! A WHIP client for whipgate's demo, tests and benchmark: publishes test media as real clients do, or as badly as a
//! test asks for, and measures what comes out of the gateway.
//!
//! A development tool, not part of the gateway. [`Publisher`] publishes, [`watch`] looks at the HLS side, [`load`]
//! puts many of both together.

#![forbid(unsafe_code)]
// Media arithmetic turns between widths and floats on every line; ranges are bounded by the formats themselves.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::cast_lossless
)]

pub mod bench;
mod bitstream;
pub mod boxes;
pub mod clip;
pub mod codec;
pub mod encode;
mod gateway;
pub mod http;
mod live;
pub mod load;
pub mod packetize;
mod path;
pub mod picture;
pub mod process;
mod publisher;
pub mod receiver;
pub mod scenarios;
mod session;
pub mod stamp;
pub mod tone;
mod track;
pub mod viewers;
pub mod watch;
pub mod whip;

pub use clip::{AudioClipSpec, ClipSpec, Times};
pub use codec::VideoCodec;
pub use encode::VideoFormat;
pub use live::LiveSpec;
pub use path::{PathOptions, SenderReports};
pub use publisher::{AudioSource, PublishOptions, Publisher, Stats, VideoSource};
pub use session::{Change, Ended};
