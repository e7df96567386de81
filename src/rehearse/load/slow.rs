//! Clients that send a request a byte at a time, and never finish.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use super::pool::Pool;

/// Time between two bytes, and before a client connects again.
const BYTE_EVERY: Duration = Duration::from_millis(500);

/// The request that never ends.
const HEAD: &[u8] = b"POST /coupon/issue HTTP/1.1\r\nhost: localhost\r\nx-slow: ";

/// Starts this many slow clients. They end when the result is dropped.
pub(super) fn start(clients: u32, pools: &[Rc<Pool>]) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for pool in pools.iter().cycle().take(clients as usize) {
        tasks.spawn_local(trickle(pool.address));
    }
    tasks
}

async fn trickle(address: SocketAddr) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            for byte in HEAD.iter().chain(b"x".iter().cycle()) {
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(BYTE_EVERY).await;
            }
        }
        tokio::time::sleep(BYTE_EVERY).await;
    }
}
