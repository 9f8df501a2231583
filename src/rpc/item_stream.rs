//! Bidirectional streams of items that are answered one by one: a bad item answers with its own
//! failure and the stream lives on.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::error::RpcError;
use super::status;
use crate::engine::EngineError;

/// What happens to items that arrive faster than they can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Every item is answered, `in_flight` at a time; the daemon reads no faster than it answers.
    AnswerAll {
        /// At least 1.
        in_flight: usize,
    },
    /// One item at a time is answered; of those that wait only the latest is kept.
    LatestOnly,
}

/// The ends of a stream's life other than its client's wish.
#[derive(Clone, Debug)]
pub struct Limits {
    /// When the caller gives up.
    pub deadline: Option<Instant>,
    /// Becomes true when the daemon stops: what was read is answered, no more is read.
    pub draining: watch::Receiver<bool>,
    /// Bytes a message, for the error of a larger one.
    pub maximum_message_bytes: usize,
    /// Where the bytes of items are counted.
    pub room: Room,
}

/// Bytes that the items of all streams hold together. While they hold more, a stream that answers all
/// reads no further item before it has answered what it has read: so there are at most these, and one
/// message a stream. A stream that answers only the latest always reads: beyond these bytes it holds
/// two messages, the one being answered and the latest waiting. Clones count together.
#[derive(Clone, Debug)]
pub struct Room(Arc<Held>);

#[derive(Debug)]
struct Held {
    now: AtomicUsize,
    most: usize,
}

/// The bytes of one item, until it is answered.
#[derive(Debug)]
struct Place {
    room: Room,
    bytes: usize,
}

impl Room {
    /// For so many bytes.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Held { now: AtomicUsize::new(0), most }))
    }

    fn take(&self, bytes: usize) -> Place {
        self.0.now.fetch_add(bytes, Ordering::Relaxed);
        Place { room: self.clone(), bytes }
    }

    fn is_left(&self) -> bool {
        self.0.now.load(Ordering::Relaxed) < self.0.most
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.0.now.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Answers the items of `inbound` with `answer`, which also gets the number of items skipped before
/// this one. `policy` looks at the first item. Everything ends when the caller hangs up.
pub fn serve<Request, Response, F>(
    inbound: impl Stream<Item = Result<Request, Status>> + Send + Unpin + 'static,
    limits: Limits,
    policy: impl Fn(&Request) -> Policy + Send + Sync + 'static,
    answer: impl Fn(Request, u64) -> F + Send + Sync + 'static,
) -> ReceiverStream<Result<Response, Status>>
where
    Request: prost::Message + 'static,
    Response: Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let (outbound, answers) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut stream = ItemStream {
            inbound,
            waiting: VecDeque::new(),
            running: JoinSet::new(),
            policy: None,
            skipped: 0,
        };
        tokio::select! {
            // Dropping the stream drops its running items, which frees their places in the queue.
            () = outbound.closed() => {}
            end = stream.run(&limits, policy, answer, &outbound) => {
                if let Err(status) = end {
                    let _ = outbound.send(Err(status)).await;
                }
            }
        }
    });
    ReceiverStream::new(answers)
}

struct ItemStream<Inbound, Request, Response> {
    inbound: Inbound,
    waiting: VecDeque<(Request, Place)>,
    running: JoinSet<Response>,
    policy: Option<Policy>,
    skipped: u64,
}

impl<Inbound, Request, Response> ItemStream<Inbound, Request, Response>
where
    Inbound: Stream<Item = Result<Request, Status>> + Unpin,
    Request: prost::Message + 'static,
    Response: Send + 'static,
{
    async fn run<F>(
        &mut self,
        limits: &Limits,
        policy: impl Fn(&Request) -> Policy,
        answer: impl Fn(Request, u64) -> F,
        outbound: &mpsc::Sender<Result<Response, Status>>,
    ) -> Result<(), Status>
    where
        F: Future<Output = Response> + Send + 'static,
    {
        let mut draining = limits.draining.clone();
        // What ends the stream once all that was read is answered.
        let mut end: Option<Result<(), Status>> = None;
        loop {
            while self.running.len() < self.in_flight()
                && let Some((request, place)) = self.waiting.pop_front()
            {
                let answer = answer(request, std::mem::take(&mut self.skipped));
                self.running.spawn(async move {
                    let _held = place;
                    answer.await
                });
            }
            if self.running.is_empty()
                && let Some(end) = end
            {
                return end;
            }
            tokio::select! {
                biased;
                () = passed(limits.deadline) => {
                    return Err(RpcError::from(EngineError::DeadlineExceeded).into());
                }
                Some(done) = self.running.join_next() => {
                    let response = done.map_err(|error| {
                        RpcError::from(EngineError::Fault(format!("a stream's item: {error}")))
                    })?;
                    if outbound.send(Ok(response)).await.is_err() {
                        return Ok(());
                    }
                }
                () = begun(&mut draining), if end.is_none() => {
                    end = Some(Err(RpcError::from(EngineError::Draining).into()));
                }
                message = self.inbound.next(), if end.is_none() && self.may_read(&limits.room) => {
                    match message {
                        Some(Ok(request)) => self.take_in(request, &policy, &limits.room),
                        None => end = Some(Ok(())),
                        Some(Err(error)) => {
                            let limit = limits.maximum_message_bytes;
                            end = Some(Err(status::name_the_limit(&error, limit).unwrap_or(error)));
                        }
                    }
                }
            }
        }
    }

    fn take_in(&mut self, request: Request, policy: &impl Fn(&Request) -> Policy, room: &Room) {
        let policy = *self.policy.get_or_insert_with(|| policy(&request));
        if policy == Policy::LatestOnly {
            self.skipped += self.waiting.len() as u64;
            self.waiting.clear();
        }
        let place = room.take(request.encoded_len());
        self.waiting.push_back((request, place));
    }

    fn in_flight(&self) -> usize {
        match self.policy {
            Some(Policy::AnswerAll { in_flight }) => in_flight.max(1),
            Some(Policy::LatestOnly) | None => 1,
        }
    }

    fn may_read(&self, room: &Room) -> bool {
        let fits = self.running.is_empty() || room.is_left();
        self.policy == Some(Policy::LatestOnly) || (fits && self.running.len() < self.in_flight())
    }
}

/// Waits until the daemon stops.
pub async fn begun(draining: &mut watch::Receiver<bool>) {
    // An error means that the server is gone, which is the same to a stream.
    let _ = draining.wait_for(|draining| *draining).await;
}

/// Waits until `deadline`; for ever where there is none.
async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use tokio::sync::oneshot;

    /// A stream whose items are numbers, and whose answers come when the test lets them.
    struct Bench {
        inbound: mpsc::Sender<Result<u32, Status>>,
        answers: ReceiverStream<Result<(u32, u64), Status>>,
        /// Items in work: what was skipped before them and the way to let them be answered.
        started: mpsc::Receiver<(u32, oneshot::Sender<()>)>,
        draining: watch::Sender<bool>,
    }

    fn bench(policy: Policy, deadline: Option<Instant>) -> Bench {
        bench_in(Room::new(usize::MAX), policy, deadline)
    }

    fn bench_in(room: Room, policy: Policy, deadline: Option<Instant>) -> Bench {
        let (inbound, receiver) = mpsc::channel(16);
        let (begin, started) = mpsc::channel(16);
        let (draining, stop) = watch::channel(false);
        let limits = Limits { deadline, draining: stop, maximum_message_bytes: 9, room };
        let answer = move |item, skipped| {
            let begin = begin.clone();
            async move {
                let (release, released) = oneshot::channel();
                begin.send((item, release)).await.unwrap();
                let _ = released.await;
                (item, skipped)
            }
        };
        let answers = serve(ReceiverStream::new(receiver), limits, move |_| policy, answer);
        Bench { inbound, answers, started, draining }
    }

    impl Bench {
        async fn send(&self, item: u32) {
            self.inbound.send(Ok(item)).await.unwrap();
        }

        /// Waits until the stream has read all that was sent.
        async fn all_read(&self) {
            while self.inbound.capacity() < self.inbound.max_capacity() {
                tokio::task::yield_now().await;
            }
        }

        async fn next(&mut self) -> Option<Result<(u32, u64), Status>> {
            self.answers.next().await
        }
    }

    #[tokio::test]
    async fn a_stream_reads_no_faster_than_it_answers() {
        let mut bench = bench(Policy::AnswerAll { in_flight: 2 }, None);
        for item in 0..5 {
            bench.send(item).await;
        }
        let (_, first) = bench.started.recv().await.unwrap();
        let (_, _second) = bench.started.recv().await.unwrap();
        tokio::task::yield_now().await;
        assert_eq!(bench.inbound.max_capacity() - bench.inbound.capacity(), 3, "left unread");
        first.send(()).unwrap();
        assert_eq!(bench.next().await.unwrap().unwrap(), (0, 0));
        assert_eq!(bench.started.recv().await.unwrap().0, 2);
    }

    #[tokio::test]
    async fn all_streams_together_hold_no_more_bytes_than_there_is_room_for_and_one_item_each() {
        let room = Room::new(4);
        let policy = Policy::AnswerAll { in_flight: 64 };
        let mut benches = [0, 1].map(|_| bench_in(room.clone(), policy, None));
        for bench in &benches {
            for item in 1..=5 {
                bench.send(item).await; // two bytes each
            }
        }
        let (_, first) = benches[0].started.recv().await.unwrap();
        let (_, _other) = benches[1].started.recv().await.unwrap();
        // The room is full by now, whoever took the rest of it.
        while room.is_left() {
            tokio::task::yield_now().await;
        }
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert!(room.0.now.load(Ordering::Relaxed) <= 4 + 2);
        first.send(()).unwrap();
        assert_eq!(benches[0].next().await.unwrap().unwrap(), (1, 0));
        let next = benches[0].started.recv().await.unwrap();
        assert_eq!(next.0, 2, "and goes on once there is room");
    }

    #[tokio::test]
    async fn latest_only_drops_what_waits_and_counts_it() {
        let mut bench = bench(Policy::LatestOnly, None);
        bench.send(0).await;
        let (_, release) = bench.started.recv().await.unwrap();
        for item in 1..=4 {
            bench.send(item).await;
        }
        bench.all_read().await;
        release.send(()).unwrap();
        assert_eq!(bench.next().await.unwrap().unwrap(), (0, 0));
        let (item, release) = bench.started.recv().await.unwrap();
        assert_eq!(item, 4);
        release.send(()).unwrap();
        assert_eq!(bench.next().await.unwrap().unwrap(), (4, 3));
    }

    #[tokio::test]
    async fn the_answers_to_all_items_come_before_the_end() {
        let mut bench = bench(Policy::AnswerAll { in_flight: 2 }, None);
        bench.send(7).await;
        let (_, release) = bench.started.recv().await.unwrap();
        let (inbound, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut bench.inbound, inbound));
        release.send(()).unwrap();
        assert_eq!(bench.next().await.unwrap().unwrap(), (7, 0));
        assert!(bench.next().await.is_none());
    }

    #[tokio::test]
    async fn draining_answers_what_was_read_and_then_says_so() {
        let mut bench = bench(Policy::AnswerAll { in_flight: 1 }, None);
        bench.send(1).await;
        let (_, release) = bench.started.recv().await.unwrap();
        bench.draining.send_replace(true);
        bench.send(2).await;
        release.send(()).unwrap();
        assert_eq!(bench.next().await.unwrap().unwrap(), (1, 0));
        let status = bench.next().await.unwrap().unwrap_err();
        assert!(status.message().contains("stopping"), "{status}");
        assert!(bench.next().await.is_none());
    }

    #[tokio::test]
    async fn a_caller_that_hangs_up_ends_the_work_on_its_items() {
        let mut bench = bench(Policy::AnswerAll { in_flight: 1 }, None);
        bench.send(1).await;
        let (_, mut release) = bench.started.recv().await.unwrap();
        drop(bench.answers);
        release.closed().await;
    }

    #[tokio::test]
    async fn the_deadline_holds_for_the_whole_stream() {
        let deadline = Instant::now() + Duration::from_millis(20);
        let mut bench = bench(Policy::AnswerAll { in_flight: 1 }, Some(deadline));
        bench.send(1).await;
        let status = bench.next().await.unwrap().unwrap_err();
        assert!(status.message().contains("deadline"), "{status}");
    }

    #[tokio::test]
    async fn an_item_that_panics_ends_the_stream_with_a_fault_of_ours() {
        let seen = Arc::new(Mutex::new(0));
        let (_stop, draining) = watch::channel(false);
        let room = Room::new(usize::MAX);
        let limits = Limits { deadline: None, draining, maximum_message_bytes: 9, room };
        let items = tokio_stream::iter([Ok(1)]);
        let policy = |_: &u32| Policy::AnswerAll { in_flight: 1 };
        let counted = Arc::clone(&seen);
        let answer = move |_: u32, _: u64| {
            *counted.lock().unwrap() += 1;
            async { panic!("test") }
        };
        let mut answers = serve::<_, (), _>(items, limits, policy, answer);
        let status = answers.next().await.unwrap().unwrap_err();
        assert!(status.message().starts_with("internal error"), "{status}");
        assert_eq!(*seen.lock().unwrap(), 1);
    }
}
