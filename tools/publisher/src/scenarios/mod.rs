//! Hard cases end to end: loss, jitter, changes in mid-stream, clocks. Starts a gateway, publishes each case, and judges
//! what players and the recording got, by a full decode and by what the media itself says.

mod capture;
mod cases;
mod judge;
mod mp4;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use reqwest::{Client, Url};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::{
    AudioClipSpec, AudioSource, PublishOptions, Publisher, Stats,
    gateway::Gateway,
    load::percentile,
    watch::{Seen, Watcher},
};
use cases::{Action, Bounds, Case, Lost};
use judge::Output;

/// Time between the last picture and the end of its session.
const DRAIN: Duration = Duration::from_millis(600);
/// Longest wait for a recording to be complete, and for first media.
const PATIENCE: Duration = Duration::from_secs(15);
/// Parts of which the median age is taken, at the beginning and at the end.
const PARTS: usize = 8;
/// How much older pictures may be at the end than at the beginning, in milliseconds: what a busy machine does by itself.
const MAX_DRIFT_MS: f64 = 60.0;

/// What to run.
#[derive(Clone, Debug)]
pub struct ScenarioOptions {
    /// The gateway's binary.
    pub gateway: PathBuf,
    /// Further arguments for it.
    pub arguments: Vec<String>,
    /// Only cases with this in their name.
    pub only: Option<String>,
    /// Only the short selection.
    pub quick: bool,
    /// Cases at a time.
    pub at_once: usize,
    /// Where to keep what was captured, the recordings and the gateway's log.
    pub keep: Option<PathBuf>,
}

/// What came of one case.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// Its name.
    pub case: String,
    hls: Output,
    recording: Output,
    recording_files: usize,
    /// In the playlists of video and audio.
    discontinuities: [usize; 2],
    part_target_ms: f64,
    drift_ms: Option<f64>,
    stats: Stats,
    /// Each bound that was missed, in words.
    pub failures: Vec<String>,
}

/// A case as others may know it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CaseName {
    /// Its name.
    pub name: &'static str,
    /// How much media it publishes, in seconds.
    pub seconds: f64,
    /// In the short selection.
    pub quick: bool,
}

/// All cases.
pub fn names() -> Vec<CaseName> {
    cases::all()
        .iter()
        .map(|case| CaseName {
            name: case.name,
            seconds: case.length.as_secs_f64(),
            quick: case.quick,
        })
        .collect()
}

/// Publishes the case of this name to a WHIP endpoint, without judging what comes of it.
pub async fn publish(name: &str, url: &str) -> Result<Stats> {
    let Some(case) = cases::all().into_iter().find(|case| case.name == name) else {
        bail!("no case is named {name:?}: scenarios --list has their names");
    };
    let publisher = Publisher::start(PublishOptions {
        url: url.to_owned(),
        media_duration: Some(case.length),
        ..case.options.clone()
    })
    .await?;
    let end = perform(&publisher, &case).await;
    tokio::time::sleep_until(end.into()).await;
    publisher.stop().await
}

/// Does what happens in the middle of a case; returns when the case ends.
async fn perform(publisher: &Publisher, case: &Case) -> Instant {
    let connected = Instant::now();
    for (when, action) in &case.script {
        tokio::time::sleep_until((connected + *when).into()).await;
        match *action {
            Action::Pause { video, audio } => publisher.pause(video, audio).await,
            Action::Change(video, audio) => publisher.change(video, audio).await,
        }
    }
    connected + case.length + DRAIN
}

/// Runs the cases against a gateway of their own; says on the log how far it is.
pub async fn run(options: &ScenarioOptions) -> Result<Vec<Row>> {
    let wanted = |case: &Case| {
        (!options.quick || case.quick)
            && options
                .only
                .as_ref()
                .is_none_or(|only| case.name.contains(only.as_str()))
    };
    let cases: Vec<Case> = cases::all().into_iter().filter(wanted).collect();
    if cases.is_empty() {
        bail!("no case is named so");
    }
    let mut arguments: Vec<String> = [
        "--set",
        "hls.window=10m",
        "--set",
        "limits.posts_per_second=100",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.extend(options.arguments.iter().cloned());
    let mut gateway = Gateway::start(&options.gateway, &arguments)?;
    gateway.wait_ready().await?;
    let rows = run_all(options, &gateway, cases).await;
    if let Some(folder) = &options.keep {
        gateway.keep(folder)?;
    }
    if rows.is_err() || gateway.has_ended()? {
        bail!(
            "{}\nthe gateway's last words:\n{}",
            rows.err().map_or_else(
                || "the gateway ended".to_owned(),
                |error| format!("{error:#}")
            ),
            gateway.last_words()
        );
    }
    rows
}

async fn run_all(
    options: &ScenarioOptions,
    gateway: &Gateway,
    cases: Vec<Case>,
) -> Result<Vec<Row>> {
    let http = Watcher::http_client()?;
    let mut rows: Vec<(usize, Row)> = Vec::new();
    let mut running = JoinSet::new();
    let mut waiting = cases.into_iter().enumerate();
    loop {
        while running.len() < options.at_once.max(1) {
            let Some((number, case)) = waiting.next() else {
                break;
            };
            let place = Place {
                http: http.clone(),
                base: gateway.base().clone(),
                recordings: gateway.recordings(),
                keep: options.keep.clone(),
                session: format!("case-{number}"),
            };
            running.spawn(async move {
                let name = case.name;
                let row = one(&place, case).await.unwrap_or_else(|error| Row {
                    case: name.to_owned(),
                    failures: vec![format!("{error:#}")],
                    ..Row::default()
                });
                (number, row)
            });
        }
        match running.join_next().await {
            Some(row) => {
                let (number, row) = row.context("a case panicked")?;
                tracing::info!(
                    "{}: {}",
                    row.case,
                    if row.failures.is_empty() {
                        "good".to_owned()
                    } else {
                        row.failures.join("; ")
                    }
                );
                rows.push((number, row));
            }
            None => break,
        }
    }
    rows.sort_by_key(|(number, _)| *number);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// Where a case happens.
struct Place {
    http: Client,
    base: Url,
    recordings: PathBuf,
    keep: Option<PathBuf>,
    session: String,
}

async fn one(place: &Place, case: Case) -> Result<Row> {
    let sounds = match &case.options.audio {
        Some(AudioSource::Clip(spec)) => vec![*spec],
        Some(AudioSource::Sequence(specs)) => specs.clone(),
        _ => Vec::<AudioClipSpec>::new(),
    };
    let sounds = tokio::task::spawn_blocking(move || judge::sounds(&sounds)).await??;
    let publisher = Publisher::start(PublishOptions {
        url: place.base.join(&format!("whip/{}", place.session))?.into(),
        media_duration: Some(case.length),
        ..case.options.clone()
    })
    .await?;
    let connected = Instant::now();
    let end = connected + case.length + DRAIN;
    let mut watcher = Watcher::new(&place.http, &place.base.join("hls/")?, &place.session, 0)?;
    let following = tokio::spawn(async move {
        let mut seen = Seen::default();
        let followed = match watcher.first_media(Instant::now() + PATIENCE).await {
            Ok(_) => watcher.follow(end, &mut seen).await,
            Err(error) => Err(error),
        };
        followed.map(|()| seen)
    });
    perform(&publisher, &case).await;
    tokio::select! {
        ended = publisher.wait_ended() => bail!("the publication ended early ({ended:?})"),
        () = tokio::time::sleep_until(end.into()) => {}
    }
    let pictures = publisher.pictures();
    let stats = publisher.stop().await?;
    let seen = following.await.context("the watcher panicked")?;
    judge_case(place, &case, &pictures, &sounds, stats, seen).await
}

async fn judge_case(
    place: &Place,
    case: &Case,
    pictures: &[Duration],
    sounds: &judge::Sounds,
    stats: Stats,
    seen: Result<Seen>,
) -> Result<Row> {
    let scratch = tempfile::tempdir()?;
    let folder = match &place.keep {
        Some(keep) => {
            let folder = keep.join(&place.session);
            std::fs::create_dir_all(&folder)?;
            std::fs::write(folder.join("case"), case.name)?;
            folder
        }
        None => scratch.path().to_owned(),
    };
    let index = place
        .base
        .join(&format!("hls/{}/index.m3u8", place.session))?;
    let (video, audio) = capture::capture(&place.http, &index, &folder).await?;
    let from = case.bounds.from;
    let hls = judge::hls(video.as_ref(), audio.as_ref(), pictures, sounds, from).await?;
    let files = complete_recordings(place).await?;
    let recording = judge::recording(&files, pictures, sounds, from).await?;
    if place.keep.is_some() {
        for file in &files {
            let name = file.file_name().context("a recording without a name")?;
            std::fs::copy(file, folder.join(name))?;
        }
    }
    let both = [&video, &audio];
    let mut row = Row {
        case: case.name.to_owned(),
        recording_files: files.len(),
        discontinuities: both.map(|one| one.as_ref().map_or(0, |one| one.discontinuities)),
        part_target_ms: both
            .iter()
            .filter_map(|one| Some(one.as_ref()?.part_target * 1e3))
            .fold(0.0, f64::max),
        drift_ms: None,
        hls,
        recording,
        stats,
        failures: Vec::new(),
    };
    match seen {
        Ok(mut seen) => {
            if seen.errors > 0 {
                row.failures
                    .push(format!("{} failed requests", seen.errors));
            }
            row.drift_ms = drift(&mut seen.ages_ms);
        }
        Err(error) => row.failures.push(format!("following failed: {error:#}")),
    }
    hold(&mut row, &case.bounds);
    Ok(row)
}

/// By how much pictures are older at the end than at the beginning.
fn drift(ages_ms: &mut [f64]) -> Option<f64> {
    if ages_ms.len() < 2 * PARTS {
        return None;
    }
    let end = ages_ms.len() - PARTS;
    let after = percentile(&mut ages_ms[end..], 50.0)?;
    let before = percentile(&mut ages_ms[..PARTS], 50.0)?;
    Some(after - before)
}

/// Notes each bound that was missed.
fn hold(row: &mut Row, bounds: &Bounds) {
    let mut failures = Vec::new();
    for (name, output) in [("HLS", &row.hls), ("recording", &row.recording)] {
        if let Some(offset) = output.offset_ms
            && offset.abs() > bounds.offset_ms
        {
            failures.push(format!("{name}: sound is {offset:+.1} ms off"));
        }
        if let (Lost::AtMost(most), Some(lost)) = (bounds.lost, output.lost)
            && lost > most
        {
            failures.push(format!("{name}: {lost} pictures lost"));
        }
        if output.duplicated > 0 {
            failures.push(format!("{name}: {} pictures twice", output.duplicated));
        }
        if !bounds.damaged
            && let Some(first) = output.warnings.first()
        {
            failures.push(format!(
                "{name}: {} warnings, the first: {first}",
                output.warnings.len()
            ));
        }
        if output.holes_ms > 1.0 {
            failures.push(format!("{name}: holes of {:.0} ms", output.holes_ms));
        }
    }
    let most = row.discontinuities.iter().copied().max().unwrap_or(0);
    if most > bounds.discontinuities {
        failures.push(format!("{most} discontinuities"));
    }
    if row.part_target_ms > 201.0 {
        failures.push(format!(
            "PART-TARGET is {:.0} ms at the end",
            row.part_target_ms
        ));
    }
    if let Some(drift) = row.drift_ms.filter(|drift| *drift > MAX_DRIFT_MS) {
        failures.push(format!("latency grew by {drift:.0} ms"));
    }
    if let Some(gap) = bounds.request_gap_ms {
        let least = row.stats.keyframe_request_gap_ms;
        if row.stats.keyframe_requests == 0 {
            failures.push("no keyframe was asked for".to_owned());
        } else if least > 0 && least < gap {
            failures.push(format!("two keyframe requests within {least} ms"));
        }
    }
    row.failures.extend(failures);
}

/// The session's recordings, once they are complete.
async fn complete_recordings(place: &Place) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct List {
        recordings: Vec<File>,
    }
    #[derive(serde::Deserialize)]
    struct File {
        state: String,
    }
    let url = place.base.join(&format!("recordings/{}", place.session))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = place.http.get(url.clone()).send().await?.text().await?;
        let list: List = serde_json::from_str(&text).with_context(|| text.clone())?;
        let complete = list.recordings.iter().all(|file| file.state == "complete");
        if complete && !list.recordings.is_empty() {
            return files(&place.recordings.join(&place.session));
        }
        if Instant::now() > deadline {
            bail!("the recording is not complete: {text}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "mp4") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The rows as a Markdown table; two figures in a cell are those of HLS and of the recording.
pub fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "| case | measured A/V offset ms | lost pictures | duplicated pictures | decoder warnings after recovery \
         | discontinuities (video / audio) | latency drift ms | |\n|---|---|---|---|---|---|---|---|\n",
    );
    let number =
        |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:+.1}"));
    let count = |value: Option<u64>| value.map_or_else(|| "-".into(), |value| value.to_string());
    for row in rows {
        let (hls, recording) = (&row.hls, &row.recording);
        // Writing to a string cannot fail.
        let _written = writeln!(
            table,
            "| {} | {} / {} | {} / {} of {} | {} / {} | {} / {} | {} / {} | {} | {} |",
            row.case,
            number(hls.offset_ms),
            number(recording.offset_ms),
            count(hls.lost),
            count(recording.lost),
            row.stats.pictures,
            hls.duplicated,
            recording.duplicated,
            hls.warnings.len(),
            recording.warnings.len(),
            row.discontinuities[0],
            row.discontinuities[1],
            row.drift_ms
                .map_or_else(|| "-".into(), |drift| format!("{drift:+.0}")),
            if row.failures.is_empty() {
                "good".to_owned()
            } else {
                row.failures.join("; ")
            },
        );
    }
    table
}
