//! Logs: to standard error, for machines or for people.

use std::io::{self, IsTerminal};

use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::ParseError, fmt, layer::SubscriberExt,
    util::SubscriberInitExt, util::TryInitError,
};

use crate::config::{LogFormat, LogSettings};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `log.level` is no filter.
    #[error(
        "`log.level` is `{level}`, which is not a level or filter such as `info` or `symbolon::trust=debug`"
    )]
    Level {
        /// As configured.
        level: String,
        /// Why.
        source: ParseError,
    },
    /// The process logs already.
    #[error("logging is set up already")]
    AlreadySet(#[source] TryInitError),
}

/// Returns the filter that `level` says: what checks the configuration before anything is started.
///
/// # Errors
/// [`LogError::Level`]: a part of it is no level or filter. An empty one is none either: it would
/// silence everything.
pub fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let level = level.trim();
    // The parser has its own reading of nothing at all; `off` says that in words.
    let parsed = if level.is_empty() { "=" } else { level };
    EnvFilter::builder()
        .with_regex(false)
        .parse(parsed)
        .map_err(|source| LogError::Level { level: level.to_owned(), source })
}

/// Sends the process's logs to standard error from now on.
///
/// # Errors
/// As [`filter`], and [`LogError::AlreadySet`] the second time.
pub fn init(settings: &LogSettings) -> Result<(), LogError> {
    filter(&settings.level)?;
    // The watcher reports a directory that was swapped, as ConfigMaps are, like a failure. What cannot be
    // watched is told by those who watch. A level that names it wins, as it comes later.
    let filter = filter(&format!("notify=off,{}", settings.level))?;
    let human = match settings.format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stderr().is_terminal(),
    };
    let layer = fmt::layer().with_writer(io::stderr);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = if human {
        layer.with_ansi(io::stderr().is_terminal()).boxed()
    } else {
        layer.json().flatten_event(true).with_span_list(false).boxed()
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()
        .map_err(LogError::AlreadySet)
}

/// Logs panics from now on by their place and thread. Their messages are left out: one may quote what a
/// request held.
pub fn panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(place, thread = thread.name().unwrap_or_default(), "panic");
    }));
}

#[cfg(test)]
mod tests {
    use super::{LogError, filter};

    #[test]
    fn levels_and_targets_are_filters() {
        for level in ["info", "off", "warn,symbolon::trust=debug", " debug "] {
            assert!(filter(level).is_ok(), "{level}");
        }
    }

    #[test]
    fn what_is_no_filter_is_named() {
        for level in ["symbolon=loud", "", "=", "info,=="] {
            let error = filter(level).unwrap_err();
            assert!(
                matches!(&error, LogError::Level { level: l, .. } if l == level.trim()),
                "{level}"
            );
        }
    }
}
