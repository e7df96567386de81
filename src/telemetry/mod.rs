//! Logs and metrics of the process.

mod chain;
pub mod metrics;
mod sums;

use std::{
    convert::Infallible,
    env,
    io::IsTerminal,
    panic,
    sync::{LazyLock, OnceLock},
    time::Duration,
};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;
use tracing_subscriber::{
    EnvFilter, filter::ParseError, layer::SubscriberExt, util::SubscriberInitExt,
};

pub(crate) use chain::Chain;

/// Environment variables of the log filter; the first that is set counts.
const LOG_VARIABLES: [&str; 2] = ["COUPOND_LOG", "RUST_LOG"];

/// Default log filter: libraries log warnings only. What the driver says each time that it finds no
/// database, coupond says once and with the remedy.
const LOG_DEFAULT: &str =
    "info,fjall=warn,lsm_tree=warn,ractor=warn,scylla=warn,scylla::cluster=off";

/// Histogram buckets of latencies, as upper bounds in seconds: from a tenth of a millisecond, about
/// one fsync, to ten seconds, after which every client has timed out.
const LATENCY_BOUNDS: [f64; 16] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// Time between two runs that move histogram samples into their buckets. Without scrapes the
/// samples would pile up in memory.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The log lines that are summed up.
static SUMS: LazyLock<sums::Sums> = LazyLock::new(sums::Sums::default);

/// A log filter.
#[derive(Debug)]
pub struct LogFilter(EnvFilter);

/// A log filter with a syntax error.
#[derive(Debug, thiserror::Error)]
#[error("{variable} is {filter:?}, which is not a log filter")]
pub struct LogFilterError {
    /// The environment variable.
    pub variable: &'static str,
    /// The value of the variable.
    pub filter: String,
    /// The syntax error.
    #[source]
    pub source: ParseError,
}

impl LogFilter {
    /// Reads `COUPOND_LOG`, else `RUST_LOG`. The default is `info`, and `warn` for libraries.
    ///
    /// # Errors
    /// [`LogFilterError`] if the variable does not hold a log filter.
    pub fn from_environment() -> Result<Self, LogFilterError> {
        let asked = LOG_VARIABLES.iter().find_map(|variable| {
            let filter = env::var_os(variable).filter(|filter| !filter.is_empty())?;
            Some((*variable, filter.to_string_lossy().into_owned()))
        });
        match asked {
            Some((variable, filter)) => Self::parse(variable, filter),
            None => Ok(Self(EnvFilter::new(LOG_DEFAULT))),
        }
    }

    fn parse(variable: &'static str, filter: String) -> Result<Self, LogFilterError> {
        match EnvFilter::builder().parse(&filter) {
            Ok(parsed) => Ok(Self(parsed)),
            Err(source) => Err(LogFilterError { variable, filter, source }),
        }
    }
}

/// Writes the logs of this process, including those of libraries that use the `log` crate, to the
/// standard error: as text if it is a terminal, else as one JSON object per line. Panics are logged
/// too. Events with the field `summed` are written once a second and kind, while [`sum_up_logs`] is
/// polled. A second call has no effect.
pub fn install_logs(filter: LogFilter) {
    let logs = tracing_subscriber::fmt().with_env_filter(filter.0).with_writer(std::io::stderr);
    // `try_init` fails only if a subscriber is installed already.
    let installed = if std::io::stderr().is_terminal() {
        logs.compact().with_ansi(env::var_os("NO_COLOR").is_none()).finish().with(&*SUMS).try_init()
    } else {
        logs.json().flatten_event(true).with_span_list(false).finish().with(&*SUMS).try_init()
    };
    if installed.is_ok() {
        panic::set_hook(Box::new(log_panic));
    }
}

/// Says once a second how many log lines were left out. Never completes; the main loop of the process
/// polls it.
pub async fn sum_up_logs() -> Infallible {
    let mut ticks = tokio::time::interval(sums::WITHIN);
    loop {
        ticks.tick().await;
        SUMS.write();
    }
}

fn log_panic(panic: &panic::PanicHookInfo<'_>) {
    let text = panic.payload().downcast_ref::<&str>().copied();
    let owned = panic.payload().downcast_ref::<String>().map(String::as_str);
    let message = text.or(owned).unwrap_or("no message");
    let location = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    tracing::error!(panic = message, location, thread = thread.name(), "thread panicked");
}

/// The metrics of this process.
#[derive(Debug)]
pub struct Metrics {
    recorded: PrometheusHandle,
    process: metrics_process::Collector,
    /// Serializes renderings: process metrics are read and set in several steps.
    rendering: Mutex<()>,
}

/// Installs the metrics recorder of this process. Every call returns the same one.
pub fn install_metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&LATENCY_BOUNDS)
            .expect("the bounds are a constant and not empty")
            .build_recorder();
        let recorded = recorder.handle();
        if ::metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed, /metrics stays empty");
        }
        metrics::describe();
        let process = metrics_process::Collector::default();
        process.describe();
        Metrics { recorded, process, rendering: Mutex::new(()) }
    })
}

impl Metrics {
    /// Renders all metrics as Prometheus text. Reads those of the process at this moment.
    #[must_use]
    pub fn render(&self) -> String {
        let _serialized = self.rendering.lock();
        self.process.collect();
        self.recorded.render()
    }

    /// Keeps the memory of histograms bounded between scrapes. Never completes; the main loop of
    /// the process polls it.
    pub async fn upkeep(&self) -> Infallible {
        let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            ticks.tick().await;
            self.recorded.run_upkeep();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::invariant::Invariant;

    #[test]
    fn metrics_are_installed_once() {
        let shown = install_metrics();
        assert!(std::ptr::eq(shown, install_metrics()));
        // Other tests of this process record metrics too, but not for this operation.
        metrics::store_latency("telemetry_test", Duration::from_secs(3));
        let text = shown.render();
        for line in [
            "# HELP coupond_store_latency_seconds One operation of the coupon store.",
            "# TYPE coupond_store_latency_seconds histogram",
            "coupond_store_latency_seconds_bucket{operation=\"telemetry_test\",le=\"0.0001\"} 0",
            "coupond_store_latency_seconds_bucket{operation=\"telemetry_test\",le=\"2.5\"} 0",
            "coupond_store_latency_seconds_bucket{operation=\"telemetry_test\",le=\"5\"} 1",
            "coupond_store_latency_seconds_sum{operation=\"telemetry_test\"} 3",
            "# TYPE process_resident_memory_bytes gauge",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        for invariant in Invariant::COUNTED {
            let id = invariant.id();
            let counted = format!("coupond_invariant_violations_total{{invariant=\"{id}\"}} ");
            assert!(text.contains(&counted), "{counted}\n{text}");
        }
    }

    #[test]
    fn every_metric_has_a_description() {
        let source = include_str!("metrics.rs");
        let named = source
            .lines()
            .filter(|line| line.starts_with("const "))
            .filter_map(|line| line.split('"').nth(1).filter(|name| name.starts_with("coupond_")));
        let mut named: Vec<_> = named.collect();
        let mut described: Vec<_> = metrics::names().collect();
        named.sort_unstable();
        described.sort_unstable();
        assert_eq!(described, named);
    }

    #[test]
    fn log_filters_are_checked() {
        for good in ["warn", "info,coupond=debug", LOG_DEFAULT] {
            assert!(LogFilter::parse("COUPOND_LOG", good.to_owned()).is_ok(), "{good}");
        }
        let error = LogFilter::parse("COUPOND_LOG", "coupond=loud".to_owned()).unwrap_err();
        assert!(error.to_string().starts_with("COUPOND_LOG is \"coupond=loud\", which is no"));
    }
}
