//! The plan of the log.

/// What is logged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPlan {
    /// Events below it are left out.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
    /// A line for each session, and with HTTP for each request, when it has ended.
    pub access: bool,
}

impl Default for LogPlan {
    fn default() -> Self {
        Self { level: LogLevel::default(), format: LogFormat::default(), access: true }
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// What needs a person.
    Error,
    /// And what is not as it should be.
    Warn,
    /// And what happens, sessions among it.
    #[default]
    Info,
    /// And how it comes to be so.
    Debug,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// An object a line.
    Json,
}
