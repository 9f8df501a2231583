//! The calls that run now. The end of the daemon waits for them and for nothing else: a client that
//! leaves its connection open has no claim to it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

/// Counts the calls that run through the services that it is laid around. Clones count together.
#[derive(Clone, Debug)]
pub struct Calls(Arc<watch::Sender<usize>>);

/// A call; it runs until this is dropped.
#[derive(Debug)]
struct Running(Arc<watch::Sender<usize>>);

impl Default for Calls {
    fn default() -> Self {
        Self(Arc::new(watch::channel(0).0))
    }
}

impl Calls {
    /// How many run now.
    pub fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Returns once no call has run for `span`.
    pub async fn quiet_for(&self, span: Duration) {
        let mut count = self.0.subscribe();
        loop {
            // Waiting cannot fail: we hold the sender.
            let _ = count.wait_for(|running| *running == 0).await;
            if tokio::time::timeout(span, count.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Health and reflection (`grpc.*`) do not count: their streams last as long as clients like.
    fn begin(&self, path: &str) -> Option<Running> {
        (!path.starts_with("/grpc.")).then(|| {
            self.0.send_modify(|running| *running += 1);
            Running(Arc::clone(&self.0))
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

impl<S> Layer<S> for Calls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, calls: self.clone() }
    }
}

/// A service whose calls are counted from the request's head to the end of the answer.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    calls: Calls,
}

impl<S, B> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let running = self.calls.begin(request.uri().path());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            // The closure owns the call and goes with the body, sent or not.
            let counted = |body: Body| {
                body.map_frame(move |frame| {
                    let _ = &running;
                    frame
                })
            };
            Ok(answer.map(|body| Body::new(counted(body))))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn call(calls: &Calls, path: &str) -> Response<Body> {
        let answer = |_: Request<()>| async {
            let body = http_body_util::Full::new(bytes::Bytes::from_static(b"an answer"));
            Ok::<_, std::convert::Infallible>(Response::new(Body::new(body)))
        };
        let mut service = calls.layer(tower::service_fn(answer));
        let request = Request::builder().uri(path).body(()).unwrap();
        let answer = service.call(request);
        assert_eq!(calls.count(), usize::from(!path.starts_with("/grpc")));
        answer.await.unwrap()
    }

    #[tokio::test]
    async fn a_call_runs_until_its_answer_is_sent_or_given_up() {
        let calls = Calls::default();
        let sent = call(&calls, "/graft.v1.InferenceService/Predict").await;
        assert_eq!(calls.count(), 1, "the answer is on its way");
        sent.into_body().collect().await.unwrap();
        assert_eq!(calls.count(), 0);
        let given_up = call(&calls, "/graft.v1.InferenceService/Predict").await;
        drop(given_up);
        assert_eq!(calls.count(), 0);
    }

    #[tokio::test]
    async fn quiet_is_when_nothing_but_health_and_reflection_runs() {
        let calls = Calls::default();
        let _watched = call(&calls, "/grpc.health.v1.Health/Watch").await;
        calls.quiet_for(Duration::from_millis(1)).await;
        let running = call(&calls, "/graft.v1.TrainingService/WatchJob").await;
        let mut quiet = std::pin::pin!(calls.quiet_for(Duration::from_millis(1)));
        let early = tokio::time::timeout(Duration::from_millis(30), &mut quiet).await;
        assert!(early.is_err(), "a call runs");
        drop(running);
        quiet.await;
    }
}
