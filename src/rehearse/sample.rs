//! What is sampled while a load runs: metrics of the nodes, and the processes of local engines.

use std::{collections::BTreeMap, time::Duration};

use super::exposition::Scrape;

/// Longest wait for the metrics of a node.
const SCRAPE_TIMEOUT: Duration = Duration::from_millis(900);

/// Clock ticks of a second in `/proc`, on every Linux that coupond runs on.
const TICKS: f64 = 100.0;

/// Processor time, memory and threads of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct ProcessSample {
    /// Processor time since its start, in seconds.
    pub cpu_s: f64,
    /// Resident memory, in bytes.
    pub memory: f64,
    /// Threads.
    pub threads: f64,
}

/// The metrics of a node at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeSample {
    /// Its process.
    pub process: ProcessSample,
    /// Requests since its start, by outcome.
    pub requests: BTreeMap<String, f64>,
    /// Decisions since its start, by status or reason.
    pub decisions: BTreeMap<String, f64>,
    /// Records that wait for a decision, by partition that it owns.
    pub lag: BTreeMap<String, f64>,
    /// Requests by the time until their decision: upper bound in seconds, and how many up to it.
    pub latency: Vec<(f64, f64)>,
    /// Restarts of coupon actors since its start.
    pub restarts: f64,
    /// Broken invariants since its start.
    pub violations: f64,
}

/// All nodes and engines at one moment.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// Seconds since the start of the load.
    pub at_s: f64,
    /// By node; None: it did not answer.
    pub nodes: Vec<Option<NodeSample>>,
    /// By engine; None: it does not run.
    pub engines: Vec<Option<ProcessSample>>,
}

impl Sample {
    /// Returns the records that wait for a decision in all partitions.
    #[must_use]
    pub(super) fn lag(&self) -> f64 {
        self.nodes.iter().flatten().flat_map(|node| node.lag.values()).sum()
    }

    /// Returns the decisions of this status or reason of all nodes.
    #[must_use]
    pub(super) fn decisions(&self, of: &str) -> f64 {
        self.nodes.iter().flatten().filter_map(|node| node.decisions.get(of)).sum()
    }

    /// Returns the requests of all nodes, whatever became of them.
    #[must_use]
    pub(super) fn requests(&self) -> f64 {
        self.nodes.iter().flatten().flat_map(|node| node.requests.values()).sum()
    }
}

/// Takes samples.
#[derive(Debug)]
pub(super) struct Sampler {
    http: reqwest::Client,
    admin: Vec<String>,
    engines: Vec<u32>,
}

impl Sampler {
    /// Returns a sampler of the nodes at these admin listeners, and of these processes.
    #[must_use]
    pub(super) fn new(http: reqwest::Client, admin: Vec<String>, engines: Vec<u32>) -> Self {
        Self { http, admin, engines }
    }

    /// Takes a sample.
    pub(super) async fn take(&self, at_s: f64) -> Sample {
        let nodes = self.admin.iter().map(|admin| self.node(admin));
        let nodes = futures_util::future::join_all(nodes).await;
        Sample { at_s, nodes, engines: self.engines.iter().map(|pid| process(*pid)).collect() }
    }

    async fn node(&self, admin: &str) -> Option<NodeSample> {
        let get = self.http.get(format!("{admin}/metrics")).timeout(SCRAPE_TIMEOUT);
        let text = get.send().await.ok()?.error_for_status().ok()?.text().await.ok()?;
        Some(node(&Scrape::parse(&text)))
    }
}

fn node(scrape: &Scrape) -> NodeSample {
    let sum = |name: &str| scrape.sum(name).unwrap_or_default();
    let mut latency: Vec<(f64, f64)> = scrape
        .by("coupond_issue_latency_seconds_bucket", "le")
        .into_iter()
        .filter_map(|(bound, count)| {
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, count))
        })
        .collect();
    latency.sort_by(|one, two| one.0.total_cmp(&two.0));
    NodeSample {
        process: ProcessSample {
            cpu_s: sum("process_cpu_seconds_total"),
            memory: sum("process_resident_memory_bytes"),
            threads: sum("process_threads"),
        },
        requests: scrape.by("coupond_requests_total", "outcome"),
        decisions: scrape.decisions("coupond_decisions_total"),
        lag: scrape.by("coupond_partition_lag_records", "partition"),
        latency,
        restarts: sum("coupond_actor_restarts_total"),
        violations: sum("coupond_invariant_violations_total"),
    }
}

/// Reads what the kernel says of a process.
fn process(pid: u32) -> Option<ProcessSample> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second member, the command, is in brackets and may hold spaces.
    let members: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let member = |index: usize| members.get(index)?.parse::<f64>().ok();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = resident.trim().trim_end_matches(" kB").parse().ok()?;
    Some(ProcessSample {
        cpu_s: (member(11)? + member(12)?) / TICKS,
        memory: kib * 1_024.0,
        threads: member(17)?,
    })
}

/// Returns the time in milliseconds that this share of requests between two samples did not exceed, as
/// far as the nodes' histograms tell it apart: the upper bound of its bucket.
#[must_use]
pub(super) fn latency_ms(before: &Sample, after: &Sample, share: f64) -> Option<f64> {
    let mut counts: Vec<(f64, f64)> = Vec::new();
    for (before, after) in before.nodes.iter().zip(&after.nodes) {
        let (Some(before), Some(after)) = (before, after) else { continue };
        for (index, (bound, count)) in after.latency.iter().enumerate() {
            let earlier = before.latency.get(index).map_or(0.0, |(_, count)| *count);
            match counts.get_mut(index) {
                Some(sum) => sum.1 += count - earlier,
                None => counts.push((*bound, count - earlier)),
            }
        }
    }
    let total = counts.last()?.1;
    if total <= 0.0 {
        return None;
    }
    let (bound, _) = counts.iter().find(|(_, count)| *count >= share * total)?;
    bound.is_finite().then_some(bound * 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(latency: &[(f64, f64)]) -> Sample {
        let node = NodeSample { latency: latency.to_vec(), ..NodeSample::default() };
        Sample { at_s: 0.0, nodes: vec![Some(node)], engines: Vec::new() }
    }

    #[test]
    fn a_quantile_is_that_of_the_time_between() {
        let before = sample(&[(0.01, 100.0), (0.1, 100.0), (f64::INFINITY, 100.0)]);
        let after = sample(&[(0.01, 150.0), (0.1, 199.0), (f64::INFINITY, 200.0)]);
        assert_eq!(latency_ms(&before, &after, 0.5), Some(10.0));
        assert_eq!(latency_ms(&before, &after, 0.9), Some(100.0));
        assert_eq!(latency_ms(&before, &after, 1.0), None, "beyond the last bound");
        assert_eq!(latency_ms(&before, &before, 0.5), None, "no requests");
    }

    #[test]
    fn a_process_is_read_from_the_kernel() {
        let own = process(std::process::id()).unwrap();
        assert!(own.memory > 0.0 && own.threads >= 1.0, "{own:?}");
        assert_eq!(process(u32::MAX), None);
    }
}
