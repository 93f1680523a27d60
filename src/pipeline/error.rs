//! What can go wrong with a pipeline, in words for the operator.

use std::{io, path::PathBuf};

use super::Text;

/// An element that a text names and this machine does not have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MissingElement {
    /// The element's factory name.
    pub element: String,
    /// The Debian package that has it, if that is known.
    pub debian_package: Option<&'static str>,
}

impl std::fmt::Display for MissingElement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.element)?;
        match self.debian_package {
            Some(package) => write!(f, " (Debian package {package})"),
            None => f.write_str(" (in no Debian package that whipgate knows)"),
        }
    }
}

/// Why a pipeline cannot be loaded, started or fed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// GStreamer itself does not start.
    #[error("cannot start GStreamer: {0}")]
    Init(String),
    /// The directory of texts, or a text in it, cannot be read.
    #[error("cannot read pipelines from {}: {source}", path.display())]
    Read {
        /// Directory or file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file in the directory is named after no codec.
    #[error("{} is named after no codec: expected h264, h265, av1, vp9, vp8, opus, g722, pcmu or pcma .launch, one of the last four with -aac, or one of the first four with -poster", path.display())]
    UnknownFile {
        /// The file.
        path: PathBuf,
    },
    /// Elements that the texts name do not exist here.
    #[error("missing GStreamer elements: {}", join(.0))]
    MissingElements(Vec<MissingElement>),
    /// A text is wrong.
    #[error("pipeline {origin}: {problem}")]
    Text {
        /// The file, or that it is built in.
        origin: String,
        /// What is wrong.
        problem: String,
    },
    /// A text was not loaded.
    #[error("no pipeline for {0}")]
    NoText(Text),
    /// An element reported an error or panicked; the pipeline puts out nothing more.
    #[error("the {text} pipeline failed: {message}")]
    Failed {
        /// The text it was made of.
        text: Text,
        /// What the element says.
        message: String,
    },
    /// What was pushed in did not come out in time.
    #[error("the {0} pipeline did not drain")]
    Stuck(Text),
}

fn join(missing: &[MissingElement]) -> String {
    let texts: Vec<_> = missing.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_elements_are_told_with_their_packages() {
        let error = PipelineError::MissingElements(vec![
            MissingElement {
                element: "h264parse".to_owned(),
                debian_package: Some("gstreamer1.0-plugins-bad"),
            },
            MissingElement {
                element: "nonsense".to_owned(),
                debian_package: None,
            },
        ]);
        assert_eq!(
            error.to_string(),
            "missing GStreamer elements: h264parse (Debian package gstreamer1.0-plugins-bad), \
             nonsense (in no Debian package that whipgate knows)"
        );
    }
}
