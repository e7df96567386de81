//! A Kafka and a database of `docker/engines/engines`, whose nodes are killed, paused and restarted.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// Longest start: three nodes of a database start one after the other.
const READY_WITHIN: Duration = Duration::from_secs(300);

/// Longest restart of a node.
const RESTART_WITHIN: Duration = Duration::from_secs(120);

/// Pause between two looks at a file.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// The brokers.
    Kafka,
    /// The database.
    Database,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Database => "cassandra",
        }
    }
}

/// An engine that this process started. It stops on drop, and when this process ends.
pub(crate) struct Running {
    script: PathBuf,
    data: PathBuf,
    /// `host:port` of each node.
    pub(crate) endpoints: Vec<String>,
    /// Stops when its stdin is closed.
    runner: Child,
}

/// Fetches what engines run from. Needs the network, so it comes before a namespace is entered.
///
/// # Errors
/// That it cannot be fetched.
pub(crate) fn fetch(script: &Path) -> Result<(), String> {
    let status = Command::new(script).arg("fetch").stdin(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err("the engines cannot be fetched (the lines above say why)".to_owned()),
        Err(error) => Err(format!(
            "{} cannot be run: {error}; name the script with --engines-script",
            script.display()
        )),
    }
}

impl Running {
    /// Starts an engine of `nodes` nodes (1 or 3), with its data in `data`.
    ///
    /// # Errors
    /// Why it is not ready.
    pub(crate) fn start(
        script: &Path,
        engine: Engine,
        nodes: u32,
        data: &Path,
    ) -> Result<Self, String> {
        fs::create_dir_all(data).map_err(|error| format!("{}: {error}", data.display()))?;
        let log = fs::File::create(data.join("engines.log"))
            .map_err(|error| format!("{}: {error}", data.display()))?;
        let mut runner = Command::new(script)
            .args([engine.name(), "--port", "0", "--until-eof"])
            .args(["--nodes", &nodes.to_string()])
            .arg("--data")
            .arg(data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C at a terminal ends only this process; the runner then sees its stdin close.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{}: {error}", script.display()))?;
        let stdout = runner.stdout.take().ok_or("the engine has no output")?;
        let (found, ready) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut words = line.split_whitespace();
                if words.next() == Some("ready") {
                    // The receiver is gone if the start took too long.
                    let _ = found.send(words.nth(1).unwrap_or_default().to_owned());
                }
            }
        });
        let ready = ready.recv_timeout(READY_WITHIN);
        let endpoints =
            ready.iter().flat_map(|nodes| nodes.split(',')).map(str::to_owned).collect();
        let (script, data) = (script.to_owned(), data.to_owned());
        let running = Self { script, data, endpoints, runner };
        match ready {
            Ok(_) => Ok(running),
            Err(_) => {
                let log = running.data.join("engines.log");
                Err(format!("{} is not ready; see {}", engine.name(), log.display()))
            }
        }
    }

    /// Returns the process of a node, from 0.
    ///
    /// # Errors
    /// That it has none.
    pub(crate) fn pid(&self, node: usize) -> Result<Pid, String> {
        let file = self.data.join(format!("node-{}.pid", node + 1));
        let text = fs::read_to_string(&file).unwrap_or_default();
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        pid.ok_or_else(|| format!("{} names no process", file.display()))
    }

    /// Sends a signal to a node.
    ///
    /// # Errors
    /// That it cannot be sent.
    pub(crate) fn signal(&self, node: usize, signal: Signal) -> Result<(), String> {
        let sent = kill_process(self.pid(node)?, signal);
        sent.map_err(|error| format!("{signal:?} to node {node} of an engine: {error}"))
    }

    /// Kills a node, and returns when it has ended.
    ///
    /// # Errors
    /// What the script says.
    pub(crate) fn kill(&self, node: usize) -> Result<(), String> {
        self.run("kill-node", node)
    }

    /// Asks a node to end, and returns when it has.
    ///
    /// # Errors
    /// That it did not end.
    pub(crate) fn shut_down(&self, node: usize) -> Result<(), String> {
        let pid = self.pid(node)?;
        self.signal(node, Signal::TERM)?;
        let folder = format!("/proc/{}", pid.as_raw_nonzero());
        let looks = RESTART_WITHIN.as_millis() / LOOK_EVERY.as_millis();
        for _ in 0..looks {
            if !Path::new(&folder).exists() {
                return Ok(());
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
        Err(format!("node {node} of an engine did not end"))
    }

    /// Starts a node again on its data, and returns when it answers.
    ///
    /// # Errors
    /// What the script says.
    pub(crate) fn restart(&self, node: usize) -> Result<(), String> {
        self.run("restart-node", node)
    }

    fn run(&self, command: &str, node: usize) -> Result<(), String> {
        let mut script = Command::new(&self.script);
        script.arg(command).arg("--data").arg(&self.data).arg((node + 1).to_string());
        let output = script.stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("{command}: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{command} {node}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.runner.stdin.take());
        // Its nodes have ended when it has.
        let _ended = self.runner.wait();
    }
}
