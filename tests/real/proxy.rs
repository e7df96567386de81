//! A TCP proxy between a node and an engine, which a test can cut.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// Bytes that are passed on at once.
const BUFFER: usize = 64 * 1_024;

/// A proxy. While it is cut, nothing passes, and no connection is closed: neither side hears anything.
pub(crate) struct Proxy {
    address: SocketAddr,
    is_cut: watch::Sender<bool>,
    _work: JoinSet<()>,
}

impl Proxy {
    /// Starts a proxy to `upstream`, a `host:port`.
    pub(crate) async fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (is_cut, cut) = watch::channel(false);
        let upstream = upstream.to_owned();
        let mut work = JoinSet::new();
        work.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                connections.spawn(carry(near, upstream.clone(), cut.clone()));
            }
        });
        Self { address, is_cut, _work: work }
    }

    /// Returns the endpoint for clients: `host:port`.
    pub(crate) fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Lets nothing pass from now on, or everything again.
    pub(crate) fn set_cut(&self, cut: bool) {
        self.is_cut.send_replace(cut);
    }
}

async fn carry(near: TcpStream, upstream: String, mut cut: watch::Receiver<bool>) {
    if cut.wait_for(|cut| !cut).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(upstream).await else { return };
    // A driver sends small requests.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = pump(near_in, far_out, cut.clone()) => {}
        () = pump(far_in, near_out, cut) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut cut: watch::Receiver<bool>) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        if cut.wait_for(|cut| !cut).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
