//! How many requests a second the load generator of rehearsals sends from one core, against a server that
//! only answers.
//!
//! `cargo bench --bench generator [-- RATE SECONDS ROUNDS]` starts the server as a process of its own and keeps
//! each of the two on a core of its own. A rate above what the generator can send shows its limit.

use std::{
    convert::Infallible,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use coupond::rehearse::{Driven, Scenario, Stage, drive};
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::net::TcpListener;

/// Connections, as many as a scenario has by default.
const CONNECTIONS: u32 = 512;

/// The argument that makes this program the server.
const SERVE: &str = "serve";

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    if arguments.first().is_some_and(|argument| argument == SERVE) {
        keep_to_core(1);
        runtime.block_on(serve());
    }
    let number = |index: usize, default: f64| {
        arguments.get(index).map_or(default, |text| text.parse().expect("a number"))
    };
    let (rate, seconds, rounds) = (number(0, 50_000.0), number(1, 5.0), number(2, 5.0) as usize);
    let own = std::env::current_exe().expect("this program");
    let mut server =
        Command::new(own).arg(SERVE).stdout(Stdio::piped()).spawn().expect("the server starts");
    let mut address = String::new();
    let output = server.stdout.take().expect("it is piped");
    BufReader::new(output).read_line(&mut address).expect("the server says its address");
    // Threads that are started later stay on the core too.
    keep_to_core(0);
    for round in 1..=rounds {
        let api = vec![format!("http://{}", address.trim())];
        let driven = runtime.block_on(drive(scenario(rate, seconds), api)).expect("it runs");
        let Driven { answered, failed, seconds } = driven;
        println!(
            "round {round}: {:.0} requests/s answered, of {rate}/s due; {failed} failed",
            answered as f64 / seconds
        );
    }
    server.kill().expect("it runs");
    server.wait().expect("it was started");
}

fn scenario(rate: f64, seconds: f64) -> Scenario {
    let stage = Stage { seconds, from: rate, to: rate };
    Scenario { connections: CONNECTIONS, ..Scenario::open("generator", vec![stage]) }
}

fn keep_to_core(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("the machine has two cores");
}

async fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!("{}", listener.local_addr().expect("it is bound"));
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(connection);
    }
}

/// Answers with a decision as long as a node's.
async fn answer(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    const DECISION: &[u8] = br#"{"request_id":"AQAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","campaign_id":"drive","user_id":"drive-1","status":"issued","coupon":{"sequence":17,"code":"DEMO-4Z04P6RS3Z66D0YECGH3YVZ9Z7","issued_at":"2026-11-23T07:39:54.133Z"}}"#;
    Ok(Response::new(Full::new(Bytes::from_static(DECISION))))
}
