//! Who may use whom inside the crate, and which module alone may name each big dependency.

use std::{fs, io, path::Path};

/// Module, what of the crate it may use, which big dependencies it may name.
const LAYERS: &[(&str, &[&str], &[&str])] = &[
    ("id", &[], &[]),
    ("media", &[], &[]),
    ("config", &["id", "media"], &[]),
    ("telemetry", &["config", "media"], &[]),
    ("timeline", &["media"], &[]),
    (
        "pipeline",
        &["media"],
        &["gstreamer", "gst", "gstreamer_app", "gstrsrtp"],
    ),
    ("hls", &["id", "media"], &[]),
    ("recording", &["id", "media"], &[]),
    ("transport", &["id", "media"], &["webrtc", "rtc"]),
    (
        "whip",
        &["id", "media", "transport"],
        &["actix_web", "actix_cors"],
    ),
    (
        "session",
        &[
            "id",
            "media",
            "transport",
            "timeline",
            "pipeline",
            "hls",
            "recording",
            "telemetry",
            "whip",
        ],
        &[],
    ),
    (
        "http",
        &[
            "id",
            "media",
            "config",
            "telemetry",
            "hls",
            "recording",
            "session",
            "transport",
            "whip",
        ],
        &["actix_web", "actix_cors", "actix_files"],
    ),
];

const BIG: &[&str] = &[
    "webrtc",
    "rtc",
    "gstreamer",
    "gst",
    "gstreamer_app",
    "gstrsrtp",
    "actix_web",
    "actix_cors",
    "actix_files",
];

fn sources(path: &Path, found: &mut Vec<(String, String)>) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            sources(&entry?.path(), found)?;
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        let text = fs::read_to_string(path)?;
        let code: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| [line, "\n"])
            .collect();
        found.push((path.display().to_string(), code));
    }
    Ok(())
}

/// The crate's modules that a source names as `crate::module` or inside `use crate::{...}`.
fn used_modules<'a>(code: &str, modules: &[&'a str]) -> Vec<&'a str> {
    let mut groups = String::new();
    let mut rest = code;
    while let Some((_, after)) = rest.split_once("crate::{") {
        rest = after;
        let mut depth = 1;
        let mut top_level = String::new();
        for c in rest.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ if depth == 1 => top_level.push(c),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        groups.push_str(&top_level);
        groups.push(',');
    }
    let in_groups = |module: &str| {
        groups
            .split([',', '\n'])
            .any(|item| item.trim().split("::").next() == Some(module))
    };
    modules
        .iter()
        .copied()
        .filter(|module| {
            code.contains(&format!("crate::{module}::"))
                || code.contains(&format!("crate::{module};"))
                || in_groups(module)
        })
        .collect()
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let modules: Vec<&str> = LAYERS
        .iter()
        .map(|(module, ..)| *module)
        .chain(["gateway"])
        .collect();
    let mut wrong = Vec::new();
    for (module, may_use, may_name) in LAYERS {
        let mut files = Vec::new();
        let folder = root.join(module);
        sources(if folder.is_dir() { &folder } else { &root }, &mut files).unwrap();
        if !folder.is_dir() {
            files.retain(|(path, _)| path.ends_with(&format!("src/{module}.rs")));
        }
        assert!(
            !files.is_empty(),
            "the table names a module that does not exist: {module}"
        );
        for (path, code) in files {
            for used in used_modules(&code, &modules) {
                if used != *module && !may_use.contains(&used) {
                    wrong.push(format!("{path} uses crate::{used}"));
                }
            }
            for big in BIG {
                let named = [
                    format!("use {big}::"),
                    format!("use {big};"),
                    format!(" {big}::"),
                    format!("({big}::"),
                    format!("<{big}::"),
                ]
                .iter()
                .any(|text| code.contains(text.as_str()));
                // `webrtc` is also the name of a module of ours and of a section of the configuration.
                let own_path = code.contains(&format!("transport::{big}::"))
                    || code.contains(&format!("mod {big};"));
                if named && !may_name.contains(big) && !own_path {
                    let owner = LAYERS
                        .iter()
                        .find(|(_, _, names)| names.contains(big))
                        .map_or("nobody", |(owner, ..)| owner);
                    wrong.push(format!("{path} names {big}, which belongs to {owner}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
