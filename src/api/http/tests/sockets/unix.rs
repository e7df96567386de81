//! Listeners on Unix sockets.

use std::{io, os::unix::fs::PermissionsExt, path::Path};

use tokio::net::UnixStream;

use super::*;

async fn bind(path: &Path, mode: u32) -> io::Result<server::Listener> {
    server::Listener::bind(&Listen::Unix(path.to_owned()), mode).await
}

#[tokio::test]
async fn a_unix_socket_is_served_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let listener = bind(&path, 0o660).await.unwrap();
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let place = listener.place().unwrap();
    assert_eq!(place.to_string(), format!("unix:{}", path.display()));
    let edge = Edge::new(&place, &[]);
    let site = server::Site { router: scripted(), edge, tls: None, limits: limits() };
    let ending = server::Ending::default();
    let served = tokio::spawn(server::serve(listener, site, ending.clone()));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let reply = ask_nothing(&mut stream).await;
    assert!(reply.starts_with("HTTP/1.1 421 "), "it counts as loopback: {reply}");
    stream.write_all(POST.replace("coupond\r", "localhost\r").as_bytes()).await.unwrap();
    assert!(read_one(&mut stream).await.starts_with("HTTP/1.1 202 "));
    ending.stop.cancel();
    timeout(PATIENCE, served).await.unwrap().unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_of_a_dead_process_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    // Nobody removes this one's file.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = bind(&path, 0o600).await.unwrap();
    UnixStream::connect(&path).await.unwrap();
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_in_use_and_another_file_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let _first = bind(&path, 0o600).await.unwrap();
    let error = bind(&path, 0o600).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().ends_with("name another path"), "{error}");
    assert!(UnixStream::connect(&path).await.is_ok(), "the first still listens");
    let file = folder.path().join("a-file");
    std::fs::write(&file, "precious").unwrap();
    let error = bind(&file, 0o600).await.unwrap_err();
    assert!(error.to_string().contains("is no socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}
