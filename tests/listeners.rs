//! The binary with listeners on TLS and Unix sockets, and its own command line as their client.

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;

/// Longest wait for a log line or an exit. A slower one fails the test.
const WITHIN: Duration = Duration::from_secs(60);

const TOKEN: &str = "a-token-for-tests-only";

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("the test prepares it");
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("the test prepares it");
}

/// An authority whose certificates lie in a folder.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("the test prepares it");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(
            params,
            KeyPair::generate().expect("the test prepares it"),
        )
        .expect("the test prepares it");
        write(&folder.join("ca.pem"), &issuer.pem());
        Self { issuer, folder: folder.to_owned() }
    }

    /// Writes `NAME.pem` and `NAME.key` for this machine.
    fn issue(&self, name: &str) {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().expect("the test prepares it");
        let certificate = CertificateParams::new(names)
            .expect("the test prepares it")
            .signed_by(&key, &self.issuer)
            .expect("the test prepares it");
        write(&self.folder.join(format!("{name}.pem")), &certificate.pem());
        write(&self.folder.join(format!("{name}.key")), &key.serialize_pem());
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

/// A node process that is killed on drop.
struct Node {
    child: Child,
    /// Its log, one event a line.
    log: mpsc::Receiver<Value>,
    settings: Vec<String>,
}

impl Node {
    fn start(folder: &Path, settings: Vec<String>) -> Self {
        let own = [
            format!("embedded.dir='{}'", folder.join("data").display()),
            format!("admin.token={TOKEN}"),
            "api.drain=0s".to_owned(),
            "demo=false".to_owned(),
        ];
        let settings: Vec<_> = own.into_iter().chain(settings).collect();
        let mut child = coupond(&["serve"], &settings)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the test prepares it");
        let lines = BufReader::new(child.stderr.take().expect("the test prepares it")).lines();
        let (sender, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                println!("{line}");
                let _ = sender.send(serde_json::from_str(&line).unwrap_or_default());
            }
        });
        let node = Self { child, log, settings };
        node.logged("node started");
        node
    }

    /// Waits for an event whose message begins so.
    fn logged(&self, message: &str) -> Value {
        loop {
            let event = self.log.recv_timeout(WITHIN).unwrap_or_else(|_| panic!("no {message:?}"));
            if event["message"].as_str().is_some_and(|text| text.starts_with(message)) {
                return event;
            }
        }
    }

    fn signal(&self, name: &str) {
        let (signal, process) = (format!("-{name}"), self.child.id().to_string());
        assert!(
            Command::new("kill")
                .args([signal, process])
                .status()
                .expect("the test prepares it")
                .success()
        );
    }

    /// Runs a command with the settings of the node. Returns its exit code and what it printed.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = coupond(arguments, &self.settings).output().expect("the test prepares it");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).expect("the test prepares it"))
    }

    fn stop(mut self) -> Option<i32> {
        self.signal("TERM");
        self.logged("node stopped");
        self.child.wait().expect("the test prepares it").code()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn coupond(arguments: &[&str], settings: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coupond"));
    command.args(arguments).current_dir(std::env::temp_dir()).env("COUPOND_LOG", "info");
    command.args(settings.iter().flat_map(|setting| ["--set", setting]));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Picks a port that is free now.
fn port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .expect("the test prepares it")
        .local_addr()
        .expect("the test prepares it")
        .port()
}

#[test]
fn the_command_line_speaks_tls_with_certificates() {
    let folder = tempfile::tempdir().expect("the test prepares it");
    let authority = Authority::new(folder.path());
    ["server", "client"].iter().for_each(|name| authority.issue(name));
    let (api, admin) = (port(), port());
    let settings = vec![
        format!("api.listen=127.0.0.1:{api}"),
        format!("admin.listen=127.0.0.1:{admin}"),
        format!("api.tls.cert_file='{}'", authority.path("server.pem")),
        format!("api.tls.key_file='{}'", authority.path("server.key")),
        format!("admin.tls.cert_file='{}'", authority.path("server.pem")),
        format!("admin.tls.key_file='{}'", authority.path("server.key")),
        format!("admin.tls.client_ca_file='{}'", authority.path("ca.pem")),
    ];
    let node = Node::start(folder.path(), settings);
    let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(|name| authority.path(name));
    let with_certificate = ["--ca", &ca, "--cert", &cert, "--key", &key];
    let create = ["campaign", "create", "spring", "--quota", "5"];
    let (code, text) = node.run(&[&create[..], &with_certificate].concat());
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = node.run(&["issue", "spring", "ada", "--ca", &ca]);
    assert!(code == Some(0) && text.contains("issued"), "{text}");
    let (code, text) = node.run(&["issue", "spring", "ada"]);
    assert!(code == Some(1) && text.contains("set --ca to the certificates"), "{text}");
    let (code, text) = node.run(&["campaign", "list", "--ca", &ca]);
    assert!(code == Some(1) && text.contains("set --cert and its key"), "{text}");
    let plain = format!("http://127.0.0.1:{admin}");
    let (code, text) = node.run(&["campaign", "list", "--admin", &plain]);
    assert!(code == Some(1) && text.contains("call it with https://"), "{text}");

    authority.issue("server");
    node.signal("HUP");
    node.logged("certificate of api.tls read again");
    let other = Authority::new(&{
        let other = folder.path().join("other");
        std::fs::create_dir(&other).expect("the test prepares it");
        other
    });
    other.issue("server");
    std::fs::copy(other.path("server.pem"), authority.path("server.pem"))
        .expect("the test prepares it");
    node.signal("HUP");
    let said = node.logged("a certificate or key of");
    assert_eq!(said["level"], "ERROR", "{said}");
    // Settings with such a pair are refused, by the command line too: it gets none.
    let url = format!("https://localhost:{api}");
    let output = coupond(&["issue", "spring", "ben", "--ca", &ca, "--api", &url], &[])
        .output()
        .expect("the test prepares it");
    let text = String::from_utf8(output.stdout).expect("the test prepares it");
    assert!(text.contains("issued"), "the old pair stays: {text}");
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn the_command_line_speaks_through_unix_sockets() {
    let folder = tempfile::tempdir().expect("the test prepares it");
    let [api, admin] = ["api.sock", "admin.sock"].map(|name| folder.path().join(name));
    let settings = vec![
        format!("api.listen='unix:{}'", api.display()),
        format!("admin.listen='unix:{}'", admin.display()),
    ];
    let node = Node::start(folder.path(), settings.clone());
    for (socket, mode) in [(&api, 0o660), (&admin, 0o600)] {
        assert_eq!(
            socket.metadata().expect("the test prepares it").permissions().mode() & 0o777,
            mode
        );
    }
    let (code, text) = node.run(&["campaign", "create", "spring", "--quota", "5"]);
    assert_eq!(code, Some(0), "{text}");
    let url = format!("unix:{}", api.display());
    let (code, text) = node.run(&["issue", "spring", "ada", "--api", &url]);
    assert!(code == Some(0) && text.contains("issued"), "{text}");
    let (code, text) = node.run(&["health"]);
    assert_eq!((code, text.as_str()), (Some(0), "ready\n"));
    let other = format!("embedded.dir='{}'", folder.path().join("other").display());
    let second = coupond(&["serve"], &[settings, vec![other]].concat())
        .output()
        .expect("the test prepares it");
    let text = String::from_utf8(second.stderr).expect("the test prepares it");
    assert!(second.status.code() == Some(1) && text.contains("is in use"), "{text}");
    assert_eq!(node.stop(), Some(0));
    assert!(!api.exists() && !admin.exists());
}
