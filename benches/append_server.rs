//! The baseline for an embedded node: an HTTP server that only appends and fsyncs groups.
//!
//! `cargo bench --bench append_server -- 127.0.0.1:8090 FILE` serves until it is killed. It parses
//! the body of `POST /coupon/issue`, appends it to FILE, and answers after an fdatasync. It has no
//! decisions, no second write and no actors. `load/http` compares it with a node.

use std::{fs::File, io::Write, sync::Arc};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

/// Records per fdatasync, as in the embedded log's committer.
const GROUP_MAX: usize = 1_024;

#[derive(Deserialize)]
struct Issue<'a> {
    campaign_id: &'a str,
    user_id: &'a str,
}

type Append = (Vec<u8>, oneshot::Sender<()>);

fn commit(mut file: File, mut appends: mpsc::Receiver<Append>) {
    let mut group = Vec::with_capacity(GROUP_MAX);
    while appends.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
        let bytes: Vec<u8> = group.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
        file.write_all(&bytes).expect("the write succeeds");
        file.sync_data().expect("the fdatasync succeeds");
        for (_, reply) in group.drain(..) {
            let _ = reply.send(());
        }
    }
}

async fn issue(
    State(appends): State<Arc<mpsc::Sender<Append>>>,
    body: Bytes,
) -> (StatusCode, String) {
    let Ok(issue) = serde_json::from_slice::<Issue>(&body) else {
        return (StatusCode::BAD_REQUEST, String::new());
    };
    let answer = format!(
        r#"{{"campaign_id":"{}","user_id":"{}","status":"appended"}}"#,
        issue.campaign_id, issue.user_id
    );
    let (reply, durable) = oneshot::channel();
    let mut record = body.to_vec();
    record.push(b'\n');
    if appends.send((record, reply)).await.is_err() || durable.await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, String::new());
    }
    (StatusCode::OK, answer)
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (Some(address), Some(file)) = (arguments.next(), arguments.next()) else {
        println!("give an address and a file to serve; see load/http");
        return;
    };
    let file = File::create(file).expect("the file can be made");
    let (sender, receiver) = mpsc::channel(10_000);
    std::thread::spawn(move || commit(file, receiver));
    let runtime = tokio::runtime::Runtime::new().expect("it starts");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await.expect("the port is free");
        let router = Router::new().route("/coupon/issue", post(issue)).with_state(Arc::new(sender));
        axum::serve(listener, router).await.expect("it serves");
    });
}
