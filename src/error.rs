//! What can go wrong, in words for the person who supplied the input.

/// An error of this library. Its text names the file or the tensor and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that can't be used as a checkpoint.
    #[error("{file}: {problem}")]
    Checkpoint { file: String, problem: String },
    /// Annotations or detections that can't be used.
    #[error("{file}: {problem}")]
    Dataset { file: String, problem: String },
    #[error("tensor {name} is missing (expected shape {expected:?})")]
    MissingTensor { name: String, expected: Vec<usize> },
    #[error("tensor {name} has shape {found:?}, expected {expected:?}")]
    Shape { name: String, expected: Vec<usize>, found: Vec<usize> },
    /// An architecture that no network can have, or that is not supported.
    #[error("config: {0}")]
    Config(String),
    /// A picture that can't be decoded or used.
    #[error("{0}")]
    Image(String),
    /// A file that can't be used as a case for a network.
    #[error("{file}: {problem}")]
    Case { file: String, problem: String },
    /// A file of a training run that can't be used, or a run that can't go on.
    #[error("{file}: {problem}")]
    Run { file: String, problem: String },
    /// A file that can't be used as a device's profile.
    #[error("{file}: {problem}")]
    Profile { file: String, problem: String },
    /// A file that can't be used as times in a browser.
    #[error("{file}: these aren't times as `node tests/browser/report.js` writes them: {problem}")]
    Times { file: String, problem: String },
    /// A network whose output can't be used.
    #[error("network output: {0}")]
    Output(String),
    /// No usable GPU, or one that was lost.
    #[error("GPU: {0}")]
    Gpu(String),
    #[error("CPU backend: {0}")]
    Cpu(candle_core::Error),
    /// A file that can't be had from its server.
    #[error("{url}: {problem}")]
    Download { url: String, problem: String },
    // (`r#`: the text says what the source says, which is then no further cause to tell.)
    #[error("{file}: {source}")]
    Io { file: String, r#source: std::io::Error },
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Cpu(error)
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::Error;

    /// A text that repeats its cause is printed twice by who prints all causes.
    #[test]
    fn no_cause_is_told_twice() {
        let source = || std::io::Error::from(std::io::ErrorKind::NotFound);
        for error in [Error::Io { file: "x".into(), source: source() }, candle_core::Error::Msg("broken".into()).into()] {
            let text = error.to_string();
            assert_eq!(format!("{:#}", anyhow::Error::from(error)), text);
        }
    }
}
