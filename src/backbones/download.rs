//! Fetching a model over HTTP: resumed where it stopped, from the next address where one fails, and
//! accepted by its digest alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{StatusCode, header};

use super::BackboneError;
use crate::base::cancel::Cancel;
use crate::base::digest::{Digest, Hasher};

/// How often one address may break off and be resumed, provided that each time brings something.
const MAX_RESUMPTIONS: usize = 20;
const BLOCK_BYTES: usize = 64 << 10;

/// A file to fetch.
#[derive(Clone, Debug)]
pub struct Download {
    /// Where to fetch it, in the order in which to try.
    pub addresses: Vec<String>,
    /// Its size in bytes. Not a byte more is read.
    pub size_bytes: u64,
    /// Its SHA-256. Servers are not believed.
    pub sha256: Digest,
}

/// How far a download is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The address in use.
    pub address: &'a str,
    /// Bytes that lie on the disk.
    pub received: u64,
    /// Size of the file.
    pub total: u64,
}

/// Why one address did not bring the file.
#[derive(Debug)]
enum Failure {
    /// Connection broken off or silent; what was received is kept.
    Interrupted(String),
    /// The server does not have the file, or has another one.
    Useless(String),
    /// Our own disk, or the user.
    Fatal(BackboneError),
}

impl Download {
    /// Fetches the file into `folder` and returns its path there. What an interrupted download
    /// left in `folder` is continued; what a wrong one left is removed.
    ///
    /// # Errors
    /// [`BackboneError::Download`] with a reason for each address, [`BackboneError::Cancelled`], or
    /// what the file system says.
    pub fn fetch(
        &self,
        folder: &Path,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf, BackboneError> {
        fs::create_dir_all(folder).map_err(BackboneError::io(folder))?;
        let path = folder.join(format!("{}.part", self.sha256));
        if length(&path).is_ok_and(|length| length == self.size_bytes) && self.verify(&path).is_ok()
        {
            return Ok(path);
        }
        let agent = agent();
        let mut failures = Vec::new();
        for address in &self.addresses {
            match self.fetch_from(&agent, address, &path, cancel, progress) {
                Ok(()) => return Ok(path),
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Interrupted(reason) | Failure::Useless(reason)) => {
                    failures.push((address.clone(), reason));
                }
            }
        }
        Err(BackboneError::Download(failures))
    }

    /// One address, resumed while it makes headway. A wrong file that was put together from several
    /// answers, perhaps of several servers, is fetched once more in one piece: another answer than
    /// the last may have been the wrong one, such as a portal's page before the network was reached.
    fn fetch_from(
        &self,
        agent: &ureq::Agent,
        address: &str,
        path: &Path,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), Failure> {
        let mut interrupted = Failure::Interrupted(String::new());
        let mut doubted = false;
        for _ in 0..=MAX_RESUMPTIONS {
            let before = length(path)?;
            match self.transfer(agent, address, path, before, cancel, progress) {
                Ok(start) => match self.verify(path) {
                    Err(Failure::Useless(_)) if start > 0 && !doubted => doubted = true,
                    verdict => return verdict,
                },
                Err(Failure::Interrupted(reason)) => {
                    interrupted = Failure::Interrupted(reason);
                    if length(path)? <= before {
                        break;
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(interrupted)
    }

    /// One request: appends to the file until it has its full size. Returns where in the file the
    /// answer began.
    fn transfer(
        &self,
        agent: &ureq::Agent,
        address: &str,
        path: &Path,
        present: u64,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<u64, Failure> {
        let mut request = agent.get(address);
        if present > 0 && present < self.size_bytes {
            request = request.header(header::RANGE, format!("bytes={present}-"));
        }
        let mut response = request.call().map_err(|error| describe(&error))?;
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(response.headers(), present) => present,
            StatusCode::OK => 0,
            status => return Err(Failure::Useless(format!("the server answers {status}"))),
        };
        let announced = response.body().content_length().map(|length| start + length);
        if announced.is_some_and(|total| total != self.size_bytes) {
            return Err(Failure::Useless(format!(
                "it is a file of {} bytes, not of {}",
                announced.unwrap_or(0),
                self.size_bytes
            )));
        }

        let disk = |error| Failure::Fatal(BackboneError::io(path)(error));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(disk)?;
        file.set_len(start).map_err(disk)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(start)).map_err(disk)?;
        let mut received = start;
        let mut body = response.body_mut().as_reader();
        let mut block = vec![0; BLOCK_BYTES];
        while received < self.size_bytes {
            if cancel.check().is_err() {
                return Err(Failure::Fatal(BackboneError::Cancelled));
            }
            let wanted = (self.size_bytes - received).min(BLOCK_BYTES as u64) as usize;
            match body.read(&mut block[..wanted]) {
                Ok(0) => return Err(Failure::Interrupted(broken_off(received, self.size_bytes))),
                Ok(length) => {
                    file.write_all(&block[..length]).map_err(disk)?;
                    received += length as u64;
                }
                Err(error) => {
                    let reason = broken_off(received, self.size_bytes);
                    return Err(Failure::Interrupted(format!("{reason}: {error}")));
                }
            }
            progress(Progress { address, received, total: self.size_bytes });
        }
        file.sync_all().map_err(disk)?;
        Ok(start)
    }

    /// Whether the complete file is the right one; a wrong one is removed.
    fn verify(&self, path: &Path) -> Result<(), Failure> {
        let disk = |error| Failure::Fatal(BackboneError::io(path)(error));
        let mut hasher = Hasher::default();
        let mut file = File::open(path).map_err(disk)?;
        let mut block = vec![0; 1 << 20];
        loop {
            match file.read(&mut block).map_err(disk)? {
                0 => break,
                length => hasher.update(&block[..length]),
            }
        }
        let actual = hasher.finish();
        if actual == self.sha256 {
            return Ok(());
        }
        fs::remove_file(path).map_err(disk)?;
        let expected = self.sha256;
        Err(Failure::Useless(format!("its SHA-256 is {actual}, not {expected}")))
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .user_agent(concat!("graftd/", env!("CARGO_PKG_VERSION")))
        // Ranges count the bytes of the file, not those of a compressed transfer.
        .accept_encoding("identity")
        .http_status_as_error(false)
        .max_redirects(5)
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_mins(1)))
        .timeout_per_read(Some(Duration::from_mins(1)))
        .build()
        .new_agent()
}

/// Length of the file so far; 0 where there is none. A path that is no file is an error of ours.
fn length(path: &Path) -> Result<u64, Failure> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Failure::Fatal(BackboneError::io(path)(error))),
    }
}

/// Whether a partial answer begins where it was asked to (RFC 9110, section 14.4).
fn starts_at(headers: &ureq::http::HeaderMap, start: u64) -> bool {
    headers
        .get(header::CONTENT_RANGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("bytes "))
        .and_then(|range| range.split_once('-'))
        .is_some_and(|(first, _)| first.trim().parse() == Ok(start))
}

fn describe(error: &ureq::Error) -> Failure {
    Failure::Interrupted(error.to_string())
}

fn broken_off(received: u64, total: u64) -> String {
    format!("the connection broke off after {received} of {total} bytes")
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What a test server does with a request; gets the first byte that was asked for.
    type Behaviour = fn(&mut TcpStream, &[u8], Option<usize>);

    /// An HTTP server on a free port that notes the ranges that it was asked for.
    struct Server {
        address: String,
        asked: Arc<Mutex<Vec<Option<usize>>>>,
    }

    fn serve(content: Vec<u8>, behaviour: Behaviour) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/model.onnx", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut start = None;
                for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                    let line = line.unwrap().to_ascii_lowercase();
                    if line.is_empty() {
                        break;
                    }
                    if let Some(range) = line.strip_prefix("range: bytes=") {
                        start = Some(range.trim_end_matches('-').parse().unwrap());
                    }
                }
                noted.lock().unwrap().push(start);
                behaviour(&mut stream, &content, start);
            }
        });
        Server { address, asked }
    }

    fn send(stream: &mut TcpStream, head: &str, body: &[u8]) {
        // The client may have gone; that is its right.
        let _ = write!(stream, "HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(body);
    }

    fn whole(stream: &mut TcpStream, content: &[u8], start: Option<usize>) {
        let length = content.len();
        match start {
            None => send(stream, &format!("200 OK\r\nContent-Length: {length}"), content),
            Some(start) => {
                let head = format!(
                    "206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{length}",
                    length - start,
                    length - 1
                );
                send(stream, &head, &content[start..]);
            }
        }
    }

    /// Announces everything and sends a third of what is missing.
    fn stops_half_way(stream: &mut TcpStream, content: &[u8], start: Option<usize>) {
        let first = start.unwrap_or(0);
        let end = first + (content.len() - first).div_ceil(3);
        let head = match start {
            None => format!("200 OK\r\nContent-Length: {}", content.len()),
            Some(start) => format!(
                "206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{}",
                content.len() - start,
                content.len() - 1,
                content.len()
            ),
        };
        send(stream, &head, &content[first..end]);
    }

    fn lies_about_the_content(stream: &mut TcpStream, content: &[u8], _: Option<usize>) {
        let other = vec![7; content.len()];
        send(stream, &format!("200 OK\r\nContent-Length: {}", other.len()), &other);
    }

    fn lies_about_the_size(stream: &mut TcpStream, content: &[u8], _: Option<usize>) {
        send(stream, &format!("200 OK\r\nContent-Length: {}", content.len() * 2), content);
    }

    /// What a captive portal says to everything: a page, whose length is not announced.
    fn shows_a_page(stream: &mut TcpStream, _: &[u8], _: Option<usize>) {
        let page = "<html>please log in</html>".repeat(10);
        let chunks = format!("{:x}\r\n{page}\r\n0\r\n\r\n", page.len());
        send(stream, "200 OK\r\nTransfer-Encoding: chunked", chunks.as_bytes());
    }

    /// Sends a third, and when asked for the rest something else.
    fn stops_half_way_then_lies(stream: &mut TcpStream, content: &[u8], start: Option<usize>) {
        match start {
            None => stops_half_way(stream, content, None),
            Some(_) => whole(stream, &vec![7; content.len()], start),
        }
    }

    fn never_ends(stream: &mut TcpStream, _: &[u8], _: Option<usize>) {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while stream.write_all(&[1; 4096]).is_ok() {}
    }

    fn not_found(stream: &mut TcpStream, _: &[u8], _: Option<usize>) {
        send(stream, "404 Not Found\r\nContent-Length: 4", b"gone");
    }

    fn content() -> Vec<u8> {
        (0..300_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    fn download(addresses: Vec<String>) -> Download {
        let content = content();
        Download { addresses, size_bytes: content.len() as u64, sha256: Digest::of(&content) }
    }

    fn fetch(download: &Download, folder: &Path) -> Result<PathBuf, BackboneError> {
        download.fetch(folder, &Cancel::default(), &mut |_| {})
    }

    /// What an interrupted download left in `folder`.
    fn begin(folder: &Path, download: &Download, bytes: &[u8]) {
        let part = folder.join(format!("{}.part", download.sha256));
        crate::base::atomic::write(&part, bytes).unwrap();
    }

    #[test]
    fn a_file_arrives_whole_and_its_progress_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let server = serve(content(), whole);
        let mut last = 0;
        let path = download(vec![server.address])
            .fetch(folder.path(), &Cancel::default(), &mut |progress| {
                assert!(progress.received > last && progress.total == 300_000);
                last = progress.received;
            })
            .unwrap();
        assert_eq!(last, 300_000);
        assert_eq!(fs::read(path).unwrap(), content());
    }

    #[test]
    fn a_server_that_stops_half_way_is_asked_for_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let broken = serve(content(), stops_half_way);
        let good = serve(content(), whole);
        let path = fetch(&download(vec![broken.address, good.address]), folder.path()).unwrap();
        assert_eq!(fs::read(path).unwrap(), content());
        let asked = broken.asked.lock().unwrap();
        assert_eq!(asked[..2], [None, Some(100_000)]);
    }

    #[test]
    fn an_interrupted_download_goes_on_in_the_next_attempt() {
        let folder = tempfile::tempdir().unwrap();
        let server = serve(content(), whole);
        let download = download(vec![server.address]);
        begin(folder.path(), &download, &content()[..123_456]);
        let path = fetch(&download, folder.path()).unwrap();
        assert_eq!(fs::read(path).unwrap(), content());
        assert_eq!(*server.asked.lock().unwrap(), [Some(123_456)]);
    }

    #[test]
    fn servers_that_lie_are_found_out_and_the_next_one_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let liars = [lies_about_the_content as Behaviour, lies_about_the_size, not_found];
        let servers: Vec<Server> =
            liars.into_iter().chain([whole as Behaviour]).map(|b| serve(content(), b)).collect();
        let addresses = servers.iter().map(|server| server.address.clone()).collect();
        let path = fetch(&download(addresses), folder.path()).unwrap();
        assert_eq!(fs::read(path).unwrap(), content());
    }

    #[test]
    fn what_a_lying_server_left_does_not_spoil_the_file_of_the_next() {
        for liar in [shows_a_page as Behaviour, stops_half_way_then_lies] {
            let folder = tempfile::tempdir().unwrap();
            let servers = [serve(content(), liar), serve(content(), whole)];
            let addresses = servers.iter().map(|server| server.address.clone()).collect();
            let path = fetch(&download(addresses), folder.path()).unwrap();
            assert_eq!(fs::read(path).unwrap(), content());
        }
    }

    #[test]
    fn what_an_earlier_run_left_wrong_is_fetched_again_and_a_liar_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let servers = [serve(content(), stops_half_way_then_lies), serve(content(), whole)];
        let good = download(vec![servers[1].address.clone()]);
        begin(folder.path(), &good, &[7; 1000]);
        fetch(&good, folder.path()).unwrap();
        assert_eq!(*servers[1].asked.lock().unwrap(), [Some(1000), None]);

        let folder = tempfile::tempdir().unwrap();
        fetch(&download(vec![servers[0].address.clone()]), folder.path()).unwrap_err();
        let third = Some(100_000);
        assert_eq!(*servers[0].asked.lock().unwrap(), [None, third, None, third]);
    }

    #[test]
    fn when_all_fail_each_address_is_listed_with_its_reason_and_nothing_wrong_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let servers = [serve(content(), lies_about_the_content), serve(content(), not_found)];
        let nobody = "http://127.0.0.1:1/model.onnx".to_owned();
        let mut addresses: Vec<String> =
            servers.iter().map(|server| server.address.clone()).collect();
        addresses.push(nobody);
        let error = fetch(&download(addresses), folder.path()).unwrap_err();
        let BackboneError::Download(reasons) = &error else { panic!("{error}") };
        assert!(reasons[0].1.contains("SHA-256"), "{error}");
        assert!(reasons[1].1.contains("404"), "{error}");
        assert_eq!(reasons.len(), 3);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_server_that_never_ends_is_left_at_the_expected_size() {
        let folder = tempfile::tempdir().unwrap();
        let server = serve(Vec::new(), never_ends);
        let error = fetch(&download(vec![server.address]), folder.path()).unwrap_err();
        assert!(error.to_string().contains("SHA-256"), "{error}");
    }

    #[test]
    fn cancelling_stops_and_keeps_what_was_received() {
        let folder = tempfile::tempdir().unwrap();
        let server = serve(content(), whole);
        let cancel = Cancel::default();
        let download = download(vec![server.address]);
        let result = download.fetch(folder.path(), &cancel, &mut |_| cancel.cancel());
        assert!(matches!(result, Err(BackboneError::Cancelled)));
        let part = folder.path().join(format!("{}.part", download.sha256));
        assert!(fs::metadata(part).unwrap().len() > 0);
    }
}
