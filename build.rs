//! Hands the player's JavaScript, an npm package pinned by `web/package-lock.json`, to the crate for embedding.

#![allow(
    clippy::print_stdout,
    reason = "a build script speaks to cargo on standard output"
)]

use std::{env, fs, path::PathBuf};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let player = root.join("web/node_modules/hls.js/dist/hls.min.js");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", player.display());
    let target = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("hls.js");
    if let Err(error) = fs::copy(&player, target) {
        println!(
            "cargo::error=the player's hls.js is not at {} ({error}): run scripts/setup, or npm ci --prefix web",
            player.display()
        );
    }
}
