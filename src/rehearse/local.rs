//! An instance of its own: two nodes on one Kafka and one CQL database, all on this machine. It ends with
//! the rehearsal, also when the rehearsal is killed.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::oneshot,
};

use crate::{
    children::{self, TETHER, is_installed},
    config::{Config, Problems, Sources, load},
};

/// The script that starts engines, from the folder of the project.
pub(super) const ENGINES: &str = "docker/engines/engines";

/// Name of the folder of its data.
const DATA: &str = "instance";

/// Nodes of the instance.
const NODES: usize = 2;

/// Longest wait until the engines answer; they have limits of their own.
const ENGINES_READY: Duration = Duration::from_secs(400);

/// Longest wait until a node has made topics and tables and serves.
const NODE_READY: Duration = Duration::from_secs(120);

/// Longest wait for the end of a process that was asked to end.
const ENDED: Duration = Duration::from_secs(15);

/// Bytes of the token of the nodes' admin listeners.
const TOKEN_BYTES: usize = 24;

/// Why a local instance does not run.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Something that it needs is missing.
    #[error("--local cannot start; missing:{}", .0.iter().map(|it| format!("\n  {it}")).collect::<String>())]
    Missing(Vec<String>),
    /// The place of its data is taken.
    #[error(
        "{} is there already: another rehearsal runs, or was killed; remove it, or name another folder \
         with --out", .0.display()
    )]
    Left(PathBuf),
    /// An engine or a node did not start.
    #[error("{what} did not start; its log is {}", log.display())]
    NotStarted {
        /// Its name.
        what: String,
        /// Its log.
        log: PathBuf,
    },
    /// A file or process failed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The settings of its nodes are refused.
    #[error(transparent)]
    Settings(#[from] Problems),
}

/// Returns what a local instance needs and this machine does not have.
#[must_use]
pub(super) fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !Path::new(ENGINES).is_file() {
        missing.push(format!("{ENGINES}: run this in the folder of the project"));
    }
    if !has_java() {
        missing
            .push("Java 17, which runs the engines (Debian: openjdk-17-jre-headless)".to_owned());
    }
    if !is_installed(TETHER) {
        missing.push(format!(
            "{TETHER}, which ends the nodes when this process is killed (Debian: util-linux)"
        ));
    }
    missing
}

fn has_java() -> bool {
    let named = std::env::var_os("JAVA_HOME")
        .is_some_and(|home| Path::new(&home).join("bin/java").is_file());
    let kept = fs::read_dir("/usr/lib/jvm").is_ok_and(|mut homes| {
        homes.any(|home| home.is_ok_and(|home| home.file_name().to_string_lossy().contains("17")))
    });
    named || kept || is_installed("java")
}

/// An engine of a local instance.
#[derive(Debug, Clone)]
pub struct EngineProcess {
    /// Its name.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// Where its JVM writes down each pause.
    pub pauses: PathBuf,
}

/// An instance that runs.
#[derive(Debug)]
pub struct Local {
    /// Public listeners.
    pub api: Vec<String>,
    /// Admin listeners.
    pub admin: Vec<String>,
    /// The token of its admin listeners.
    pub token: String,
    /// Its settings, for the audit.
    pub config: Config,
    /// Its engines.
    pub engines: Vec<EngineProcess>,
    nodes: Vec<Child>,
    /// The engines end when their standard input is closed.
    scripts: Vec<(Child, ChildStdin)>,
    /// Removed last, when nothing uses it any more.
    data: Folder,
}

/// A folder of data that goes with its instance.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    /// Makes a new folder. What another rehearsal has left there is not touched.
    fn make(path: PathBuf) -> Result<Self, LocalError> {
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self(path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(LocalError::Left(path))
            }
            Err(source) => {
                Err(LocalError::Io { what: format!("making {}", path.display()), source })
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is named by the next rehearsal that wants the place.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Local {
    /// Starts engines and nodes. `folder` gets their logs and, while they run, their data. `say` is told
    /// what is waited for.
    ///
    /// # Errors
    /// [`LocalError`]; whatever was started is ended.
    pub async fn start(folder: &Path, mut say: impl FnMut(&str)) -> Result<Self, LocalError> {
        let missing = missing();
        if !missing.is_empty() {
            return Err(LocalError::Missing(missing));
        }
        let io = |what: &str| {
            let what = what.to_owned();
            move |source| LocalError::Io { what, source }
        };
        fs::create_dir_all(folder).map_err(io("making the folder of the instance"))?;
        let folder = folder.canonicalize().map_err(io("making the folder of the instance"))?;
        let data = Folder::make(folder.join(DATA))?;
        say("starting Kafka and Cassandra");
        let (kafka, cassandra) =
            tokio::try_join!(engine("kafka", &folder), engine("cassandra", &folder))?;
        let process = |name: &str, engine: &Engine| {
            let pauses = data.0.join(format!("pauses-{}.log", engine.pid));
            EngineProcess { name: name.to_owned(), pid: engine.pid, pauses }
        };
        let engines = vec![process("Kafka", &kafka), process("Cassandra", &cassandra)];
        let token = token().map_err(io("drawing a token"))?;
        let instance = vec![
            "mode=distributed".to_owned(),
            format!("kafka.brokers={}", kafka.address),
            format!("cql.nodes={}", cassandra.address),
        ];
        let sources = Sources { set: instance.clone(), ..Sources::default() };
        let config = load(&sources)?.config;
        let mut local = Self {
            api: Vec::new(),
            admin: Vec::new(),
            token,
            config,
            engines,
            nodes: Vec::new(),
            scripts: vec![kafka.script, cassandra.script],
            data,
        };
        for number in 1..=NODES {
            say(&format!("starting node {number} of {NODES}"));
            local.start_node(&folder, number, &instance).await?;
        }
        Ok(local)
    }

    async fn start_node(
        &mut self,
        folder: &Path,
        number: usize,
        instance: &[String],
    ) -> Result<(), LocalError> {
        let name = format!("node-{number}");
        let log = folder.join(format!("{name}.log"));
        let failed = |what: &str| {
            let what = format!("{what} of {name}");
            move |source| LocalError::Io { what, source }
        };
        let own = std::env::current_exe().map_err(failed("finding the program"))?;
        let data = self.data.0.join(&name);
        let settings = [
            "api.listen=127.0.0.1:0".to_owned(),
            "admin.listen=127.0.0.1:0".to_owned(),
            "api.drain=0s".to_owned(),
            "demo=false".to_owned(),
            format!("embedded.dir={}", data.display()),
        ];
        let settings = instance.iter().chain(&settings);
        let mut command = Command::from(children::node(&own, settings, &self.token, folder));
        command.stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed("starting the process"))?;
        let file = fs::File::create(&log).map_err(failed("writing the log"))?;
        let (found, serving) = oneshot::channel();
        if let Some(lines) = child.stderr.take() {
            tokio::spawn(keep_log(BufReader::new(lines), file, found));
        }
        self.nodes.push(child);
        let started = tokio::time::timeout(NODE_READY, serving).await;
        let Ok(Ok((api, admin))) = started else {
            return Err(LocalError::NotStarted { what: name, log });
        };
        self.api.push(format!("http://{api}"));
        self.admin.push(format!("http://{admin}"));
        Ok(())
    }

    /// Returns the process ids of the nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(Child::id).collect()
    }

    /// Ends the nodes, then the engines.
    pub async fn stop(mut self) {
        for node in &mut self.nodes {
            if let Some(pid) = node.id().and_then(|pid| i32::try_from(pid).ok())
                && let Some(pid) = rustix::process::Pid::from_raw(pid)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        for node in &mut self.nodes {
            if tokio::time::timeout(ENDED, node.wait()).await.is_err() {
                let _ = node.kill().await;
            }
        }
        for (mut script, stdin) in self.scripts.drain(..) {
            drop(stdin);
            let _ = tokio::time::timeout(ENDED, script.wait()).await;
        }
    }
}

struct Engine {
    script: (Child, ChildStdin),
    address: String,
    pid: u32,
}

/// Starts an engine on any free port, and waits until it answers.
async fn engine(name: &'static str, folder: &Path) -> Result<Engine, LocalError> {
    let (data, log) = (folder.join(DATA).join(name), folder.join(format!("{name}.log")));
    // One line for each time that the JVM stops all its threads; %p is its process id.
    let pauses = format!("-Xlog:safepoint:file={}/pauses-%p.log", folder.join(DATA).display());
    let failed = |source| LocalError::Io { what: format!("starting {name}"), source };
    let output = fs::File::create(&log).map_err(failed)?;
    let mut script = Command::new(ENGINES)
        .args([name, "--port", "0", "--until-eof", "--data"])
        .arg(&data)
        .env("JAVA_TOOL_OPTIONS", &pauses)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(output)
        // Ctrl-C at a terminal reaches the whole group, and the engines must outlive the nodes.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let not_started = || LocalError::NotStarted { what: name.to_owned(), log: log.clone() };
    let (Some(stdin), Some(stdout)) = (script.stdin.take(), script.stdout.take()) else {
        return Err(not_started());
    };
    let mut lines = BufReader::new(stdout).lines();
    let ready = format!("ready {name} ");
    let address = async {
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(address) = line.strip_prefix(&ready) {
                return Some(address.to_owned());
            }
        }
        None
    };
    let address = tokio::time::timeout(ENGINES_READY, address).await.ok().flatten();
    let pid =
        fs::read_to_string(data.join("node-1.pid")).ok().and_then(|pid| pid.trim().parse().ok());
    match (address, pid) {
        (Some(address), Some(pid)) => Ok(Engine { script: (script, stdin), address, pid }),
        _ => Err(not_started()),
    }
}

/// Writes the lines of a node to its log, and sends its addresses once it serves.
async fn keep_log(
    lines: BufReader<tokio::process::ChildStderr>,
    mut file: fs::File,
    found: oneshot::Sender<(String, String)>,
) {
    let mut found = Some(found);
    let mut lines = lines.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if event["message"] == "node started"
            && let (Some(api), Some(admin)) = (event["api"].as_str(), event["admin"].as_str())
            && let Some(found) = found.take()
        {
            let _ = found.send((api.to_owned(), admin.to_owned()));
        }
        // A full disk must not hold the node up: its pipe is read all the same.
        let _ = writeln!(file, "{line}");
    }
}

fn token() -> io::Result<String> {
    let mut bytes = [0_u8; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
