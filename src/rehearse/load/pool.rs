//! Connections to the nodes. hyper's own client connection keeps the load generator cheap: no names, no
//! redirects, no cookies, no TLS.

use std::{cell::RefCell, io, net::SocketAddr, rc::Rc};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    HeaderMap, Request, StatusCode,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::Semaphore};

/// Largest answer that is read. A decision takes a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1_024;

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// No connection, so that nothing was sent.
    NoConnection,
    /// The connection ended before the answer.
    Broken,
}

/// Connections to one node.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) address: SocketAddr,
    host: HeaderValue,
    idle: RefCell<Vec<SendRequest<Full<Bytes>>>>,
    room: Semaphore,
}

/// Makes a pool for each node. They share `connections`.
pub(super) async fn of_nodes(api: &[String], connections: usize) -> io::Result<Vec<Rc<Pool>>> {
    let each = (connections / api.len().max(1)).max(1);
    let mut pools = Vec::new();
    for url in api {
        let (address, host) = super::resolve(url).await?;
        let host = HeaderValue::from_str(&host).map_err(io::Error::other)?;
        let (idle, room) = (RefCell::default(), Semaphore::new(each));
        pools.push(Rc::new(Pool { address, host, idle, room }));
    }
    Ok(pools)
}

impl Pool {
    /// Sends a request on a free connection, or on a new one. Waits for one while all are in use.
    pub(super) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Answer, NoAnswer> {
        let _place = self.room.acquire().await.map_err(|_| NoAnswer::NoConnection)?;
        request.headers_mut().insert(HOST, self.host.clone());
        loop {
            let kept = self.idle.borrow_mut().pop();
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect().await.map_err(|_| NoAnswer::NoConnection)?,
            };
            if connection.ready().await.is_err() {
                if is_kept {
                    continue;
                }
                return Err(NoAnswer::NoConnection);
            }
            match connection.try_send_request(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
                    let body = body.map_err(|_| NoAnswer::Broken)?.to_bytes();
                    if !connection.is_closed() {
                        self.idle.borrow_mut().push(connection);
                    }
                    return Ok(Answer { status: head.status, headers: head.headers, body });
                }
                // A node may close a kept connection at any time. What was not sent is sent again.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if is_kept => request = unsent,
                    Some(_) => return Err(NoAnswer::NoConnection),
                    None => return Err(NoAnswer::Broken),
                },
            }
        }
    }

    async fn connect(&self) -> io::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // It ends with its sender, and reports its errors there.
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }
}
