//! Starts engines, and restarts their nodes.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use super::{Endpoints, Engine};

/// Longest start, with the first download of the jars or the image on a slow line.
const READY_WITHIN: Duration = Duration::from_secs(600);

/// Longest wait for an answer of the container engine.
const PROBE_WITHIN: Duration = Duration::from_secs(10);

/// Lines of each node's log that a failed test shows.
const SHOWN_LINES: usize = 40;

/// Pause between two polls of the runner.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// An engine that this process started. It stops on drop, or with the process.
pub(crate) struct Own {
    endpoints: Endpoints,
    /// What a secured engine says beside its endpoints: `name=value`.
    more: Vec<String>,
    /// Data folder of `docker/engines/engines`; `None` for a container.
    data: Option<tempfile::TempDir>,
    /// The runner, which stops when its stdin closes.
    runner: Child,
}

impl Own {
    /// Starts an engine of `nodes` nodes (1 or 3) from its jars, for a test that kills some.
    pub(crate) fn start(engine: Engine, nodes: u32) -> Result<Self, String> {
        run_script(engine, &["--nodes", &nodes.to_string()], true)
    }

    /// Returns `host:port` of each node.
    pub(crate) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Starts an engine of one node from its jars that takes nobody without a login or a certificate.
    #[allow(dead_code, reason = "only some of the binaries with this module need it")]
    pub(crate) fn start_secured(engine: Engine) -> Result<Self, String> {
        run_script(engine, &["--secure"], false)
    }

    /// Returns what a secured engine says of itself: the folder `pki`, or a port.
    #[allow(dead_code, reason = "only some of the binaries with this module need it")]
    pub(crate) fn said(&self, name: &str) -> &str {
        let of_name = |word: &'_ String| word.split_once('=').is_some_and(|(key, _)| key == name);
        let word = self.more.iter().find(|word| of_name(word)).expect("a secured engine says it");
        &word[name.len() + 1..]
    }

    /// Kills a node (counted from 1) with SIGKILL, and returns when it has exited.
    pub(crate) fn kill_node(&self, node: u32) {
        let status = self.command("kill-node", node).status().expect("the script was run before");
        assert!(status.success(), "kill of node {node}: {status}");
    }

    /// Restarts killed nodes on their data, and returns when all are ready. Starts them together,
    /// because a single node without a majority never becomes ready.
    pub(crate) fn restart_nodes(&self, nodes: &[u32]) {
        let starts: Vec<_> = nodes
            .iter()
            .map(|node| {
                let before = self.pid(*node);
                let start = self.command("restart-node", *node).spawn();
                // The runner handles one request at a time.
                let asked = self.data().join(format!("node-{node}.restart"));
                let deadline = Instant::now() + READY_WITHIN;
                while (self.pid(*node) == before || asked.exists()) && Instant::now() < deadline {
                    std::thread::park_timeout(LOOK_EVERY);
                }
                (node, start.expect("the script was run before"))
            })
            .collect();
        for (node, mut start) in starts {
            let status = start.wait().expect("it was started");
            assert!(status.success(), "restart of node {node}: {status}");
        }
    }

    fn pid(&self, node: u32) -> String {
        std::fs::read_to_string(self.data().join(format!("node-{node}.pid"))).unwrap_or_default()
    }

    /// Prints warnings and membership changes from the logs of the nodes. The folder of the logs is
    /// deleted on drop.
    fn show_logs(&self) {
        let Some(folder) = &self.data else { return };
        let markers = [" WARN ", " ERROR ", "is now UP", "is now DOWN", "has restarted"];
        for node in 1..=self.endpoints.len() {
            let log = folder.path().join(format!("node-{node}.log"));
            let text = std::fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let shown: Vec<_> =
                text.lines().filter(|line| markers.iter().any(|it| line.contains(it))).collect();
            let last = &shown[shown.len().saturating_sub(SHOWN_LINES)..];
            eprintln!("engines: last lines of {}:\n{}", log.display(), last.join("\n"));
        }
    }

    fn data(&self) -> &Path {
        self.data.as_ref().expect("an engine that a test controls has a folder").path()
    }

    fn command(&self, command: &str, node: u32) -> Command {
        let mut script = Command::new(script());
        script.arg(command).arg("--data").arg(self.data()).arg(node.to_string());
        script.stdin(Stdio::null()).stdout(Stdio::null());
        script
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        drop(self.runner.stdin.take());
        if let Err(error) = self.runner.wait() {
            eprintln!("engines: could not wait for an engine to end: {error}");
        }
    }
}

/// Starts the engine's image under a container engine, if one answers.
pub(super) fn container(engine: Engine) -> Result<Own, String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let info = Command::new("docker").arg("info").stdin(Stdio::null()).output();
        // The receiver is gone if the probe took too long.
        let _ = send.send(info.is_ok_and(|output| output.status.success()));
    });
    if receive.recv_timeout(PROBE_WITHIN) != Ok(true) {
        return Err("no container engine answers (`docker info`)".to_owned());
    }
    let image = image_of(engine)?;
    let port = free_port().map_err(|error| format!("no free port: {error}"))?;
    let (name, inside, marker, options) = match engine {
        Engine::Kafka => ("kafka", 9092, "Kafka Server started", kafka_options(port)),
        Engine::Cql => ("cql", 9042, "Starting listening for CQL clients", Vec::new()),
    };
    let arguments: &[&str] = match engine {
        Engine::Kafka => &[],
        Engine::Cql => &["--smp", "1", "--memory", "1G", "--overprovisioned", "1"],
    };
    let mut command = Command::new("sh");
    command
        .args(["-c", CONTAINER, "sh", name, marker, &port.to_string(), "run", "-d", "--rm"])
        .args(["-p", &format!("127.0.0.1:{port}:{inside}")])
        .args(options)
        .arg(image)
        .args(arguments);
    hold(command, None)
}

/// Shell script that runs a container until its stdin ends. Arguments: name, log line that marks
/// readiness, port, arguments of `docker`.
const CONTAINER: &str = r#"
name=$1 marker=$2 port=$3
shift 3
id=$(docker "$@" </dev/null) || exit 1
trap 'docker rm -f "$id" >/dev/null 2>&1' EXIT
tries=0
until docker logs "$id" 2>&1 | grep -q "$marker"; do
  tries=$((tries + 1))
  [ "$tries" -lt 360 ] || { docker logs --tail 15 "$id" >&2; exit 1; }
  sleep 0.5
done
echo "ready $name 127.0.0.1:$port"
cat >/dev/null
"#;

/// Returns the settings of a single broker that advertises a port of this host.
fn kafka_options(port: u16) -> Vec<String> {
    let advertised = format!("PLAINTEXT://127.0.0.1:{port}");
    let settings = [
        ("NODE_ID", "1"),
        ("PROCESS_ROLES", "broker,controller"),
        ("LISTENERS", "PLAINTEXT://:9092,CONTROLLER://:9093"),
        ("ADVERTISED_LISTENERS", &advertised),
        ("LISTENER_SECURITY_PROTOCOL_MAP", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"),
        ("CONTROLLER_LISTENER_NAMES", "CONTROLLER"),
        ("CONTROLLER_QUORUM_VOTERS", "1@localhost:9093"),
        ("OFFSETS_TOPIC_REPLICATION_FACTOR", "1"),
        ("OFFSETS_TOPIC_NUM_PARTITIONS", "8"),
        ("TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1"),
        ("TRANSACTION_STATE_LOG_MIN_ISR", "1"),
        ("GROUP_INITIAL_REBALANCE_DELAY_MS", "0"),
        ("AUTO_CREATE_TOPICS_ENABLE", "false"),
    ];
    settings
        .iter()
        .flat_map(|(key, value)| ["-e".to_owned(), format!("KAFKA_{key}={value}")])
        .collect()
}

/// Returns the image in `docker/compose.yaml`, so that only that file names a version.
fn image_of(engine: Engine) -> Result<String, String> {
    let wanted = match engine {
        Engine::Kafka => "kafka",
        Engine::Cql => "scylla",
    };
    let path = repository().join("docker/compose.yaml");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("image:"))
        .map(|image| image.trim().trim_matches('"').to_owned())
        .find(|image| image.contains(wanted))
        .ok_or_else(|| format!("{} names no image of {wanted}", path.display()))
}

/// Returns a free port. The start fails if another process takes the port before the engine does.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Starts one node of the engine from its published jars.
pub(super) fn from_jars(engine: Engine) -> Result<Own, String> {
    run_script(engine, &[], false)
}

/// Runs the script. With `control`, single nodes can be killed and restarted, which needs a known
/// data folder.
fn run_script(engine: Engine, options: &[&str], control: bool) -> Result<Own, String> {
    let script = script();
    if !script.exists() {
        return Err(format!("{} is missing", script.display()));
    }
    let name = match engine {
        Engine::Kafka => "kafka",
        Engine::Cql => "cassandra",
    };
    let mut command = Command::new(script);
    command.arg(name).args(["--port", "0", "--until-eof"]).args(options);
    if !control {
        // The script deletes its own temporary folder, even if this process is killed.
        return hold(command, None);
    }
    let data = tempfile::Builder::new()
        .prefix("coupond-engine-")
        .tempdir()
        .map_err(|error| format!("no temporary folder: {error}"))?;
    command.arg("--data").arg(data.path());
    hold(command, Some(data))
}

/// Runs `command` until its stdin is closed, and waits for its line `ready NAME NODES`.
fn hold(mut command: Command, data: Option<tempfile::TempDir>) -> Result<Own, String> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let mut runner = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Ctrl-C at a terminal ends only this process. The runner then sees its stdin close.
        .process_group(0)
        .spawn()
        .map_err(|error| format!("{shown} cannot be started: {error}"))?;
    let stdout = runner.stdout.take().expect("stdout is piped");
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let mut words = line.split_whitespace();
            if words.next() == Some("ready") {
                // The receiver is gone if the start took too long.
                let _ = send.send(words.skip(1).map(str::to_owned).collect::<Vec<_>>());
            }
        }
    });
    let ready = receive.recv_timeout(READY_WITHIN);
    let (nodes, more) =
        ready.iter().flatten().cloned().partition::<Vec<_>, _>(|word| !word.contains('='));
    let endpoints = nodes.iter().flat_map(|nodes| nodes.split(',')).map(str::to_owned).collect();
    let own = Own { endpoints, more, data, runner };
    match ready {
        Ok(_) => Ok(own),
        Err(_) => Err(format!("{shown} did not start the engine (its output is above)")),
    }
}

fn script() -> PathBuf {
    repository().join("docker/engines/engines")
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
