//! Connections: not more than the daemon can bear, and none that never speaks HTTP/2.
//!
//! tonic sets no limit of its own on connections, nor on how long a client may take to begin.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_stream::Stream;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Bytes of the preface with which every client begins: RFC 9113, section 3.4.
const PREFACE_BYTES: usize = 24;

/// Accepts connections while fewer than `maximum` are open; more wait in the system's backlog. Ends
/// only with its caller.
pub fn connections(
    listener: TcpListener,
    maximum: usize,
    handshake_timeout: Duration,
) -> impl Stream<Item = io::Result<Connection>> {
    let free = Arc::new(Semaphore::new(maximum.max(1)));
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &free) => accepted,
                () = sender.closed() => return,
            };
            let connection = match accepted {
                Ok((stream, address, permit)) => {
                    tracing::debug!(%address, "connection accepted");
                    // Answers are small and awaited: they must not wait to be filled up.
                    let _ = stream.set_nodelay(true);
                    Ok(Connection::new(stream, permit, handshake_timeout))
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    // For want of file descriptors every attempt fails at once: do not spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Err(error)
                }
            };
            if sender.send(connection).await.is_err() {
                return;
            }
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(free).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    Ok((stream, address, permit))
}

/// A connection that counts against the limit until it is dropped, and that fails where its client
/// does not begin to speak in time.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Bytes of the preface that have yet to come.
    awaited: usize,
    /// Runs until they have come.
    silence: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: TcpStream, permit: OwnedSemaphorePermit, patience: Duration) -> Self {
        let silence = Some(Box::pin(tokio::time::sleep(patience)));
        Self { stream, awaited: PREFACE_BYTES, silence, _permit: permit }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.awaited = self.awaited.saturating_sub(buffer.filled().len() - before);
        if self.awaited == 0 {
            self.silence = None;
        } else if read.is_pending()
            && let Some(silence) = &mut self.silence
            && silence.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

/// Binds `address`, with a message that says what to do where that fails.
///
/// # Errors
/// Whatever the system answers, in words.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = if error.kind() == io::ErrorKind::AddrInUse {
            "another program listens there; stop it or use --listen"
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            "ports below 1024 need privileges; use another one"
        } else {
            "use --listen to choose another address"
        };
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}; {advice}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_stream::StreamExt;

    async fn listening(
        maximum: usize,
        patience: Duration,
    ) -> (SocketAddr, Pin<Box<dyn Stream<Item = io::Result<Connection>>>>) {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        (address, Box::pin(connections(listener, maximum, patience)))
    }

    #[tokio::test]
    async fn a_client_that_never_speaks_is_dropped_and_one_that_speaks_is_kept() {
        let (address, mut accepted) = listening(2, Duration::from_millis(20)).await;
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut connection = accepted.next().await.unwrap().unwrap();
        let error = connection.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);

        let mut speaking = TcpStream::connect(address).await.unwrap();
        let mut connection = accepted.next().await.unwrap().unwrap();
        speaking.write_all(&[7; PREFACE_BYTES]).await.unwrap();
        connection.read_exact(&mut [0; PREFACE_BYTES]).await.unwrap();
        assert!(connection.silence.is_none());
    }

    #[tokio::test]
    async fn a_client_that_sends_less_than_the_preface_is_dropped() {
        let (address, mut accepted) = listening(1, Duration::from_millis(20)).await;
        let mut halting = TcpStream::connect(address).await.unwrap();
        let mut connection = accepted.next().await.unwrap().unwrap();
        halting.write_all(&[7; PREFACE_BYTES - 1]).await.unwrap();
        let error = connection.read_exact(&mut [0; PREFACE_BYTES]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_connection_over_the_limit_waits_until_another_ends() {
        let (address, mut accepted) = listening(1, Duration::from_mins(1)).await;
        let _one = TcpStream::connect(address).await.unwrap();
        let _two = TcpStream::connect(address).await.unwrap();
        let first = accepted.next().await.unwrap().unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), accepted.next()).await;
        assert!(early.is_err(), "the second must wait");
        drop(first);
        assert!(accepted.next().await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_explained() {
        let taken = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = bind(taken.local_addr().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("another program listens there"), "{error}");
    }
}
