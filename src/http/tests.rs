use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Client, HttpError, Options, Patience, Request, Url};
use crate::progress::Progress;

/// A server whose n-th connection is served by the n-th of these.
fn serve(connections: Vec<Box<dyn FnOnce(TcpStream) + Send>>) -> (Url, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap()).parse().unwrap();
    let thread = std::thread::spawn(move || {
        for serve in connections {
            serve(listener.accept().unwrap().0);
        }
    });
    (url, thread)
}

/// Reads the headers of a request; `None` where the client has hung up.
fn request(stream: &TcpStream) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    for line in BufReader::with_capacity(1, stream).lines() {
        match line {
            Ok(line) if line.is_empty() => return Some(lines),
            Ok(line) => lines.push(line),
            Err(_) => return None,
        }
    }
    None
}

/// Answers one request with these bytes.
fn answer(bytes: &'static [u8]) -> Box<dyn FnOnce(TcpStream) + Send> {
    Box::new(move |mut stream| {
        request(&stream);
        let _ = stream.write_all(bytes);
    })
}

fn client(patience: Duration) -> Client {
    let patience = Patience { connect: Duration::from_secs(60), answer: patience, idle: patience };
    Client::new(Options { patience, ..Options::default() })
}

fn get(client: &Client, url: &Url) -> Result<Vec<u8>, HttpError> {
    client.send(&Request::get(url.clone()), &Arc::new(Progress::new()))?.body.read_all(100)
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_connection_is_used_again_and_replaced_once_it_is_closed() {
    let (url, thread) = serve(vec![
        Box::new(|mut stream| {
            for body in ["one", "two"] {
                let asked = request(&stream).unwrap();
                assert_eq!(asked[0], "GET /file HTTP/1.1");
                assert!(asked.iter().any(|line| line.starts_with("host: 127.0.0.1:")), "{asked:?}");
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{body}").unwrap();
            }
        }),
        answer(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nthree"),
    ]);
    let client = client(LONG);
    for body in ["one", "two", "three"] {
        assert_eq!(get(&client, &url).unwrap(), body.as_bytes());
    }
    thread.join().unwrap();
}

#[test]
fn a_body_that_ends_too_early_is_an_error() {
    for cut in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n",
    ] {
        let (url, thread) = serve(vec![answer(cut)]);
        assert!(matches!(get(&client(LONG), &url), Err(HttpError::Broken { .. })));
        thread.join().unwrap();
    }
}

#[test]
fn a_body_without_end_is_cut_off_at_the_limit() {
    let (url, thread) = serve(vec![Box::new(|mut stream| {
        request(&stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[0; 1000]).is_ok() {}
    })]);
    assert!(matches!(get(&client(LONG), &url), Err(HttpError::TooLarge { limit: 100, .. })));
    thread.join().unwrap();
}

#[test]
fn a_server_that_is_silent_or_lets_its_answer_drip_is_given_up() {
    let silent: Box<dyn FnOnce(TcpStream) + Send> = Box::new(|stream| {
        request(&stream);
        // Until the client hangs up.
        let _ = (&stream).read(&mut [0]);
    });
    let dripping: Box<dyn FnOnce(TcpStream) + Send> = Box::new(|mut stream| {
        request(&stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(b".").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    for serving in [silent, dripping] {
        let (url, thread) = serve(vec![serving]);
        let client = client(Duration::from_millis(300));
        let progress = Arc::new(Progress::new());
        let sent = client.send(&Request::get(url), &progress);
        let result = sent.and_then(|answer| answer.body.read_all(1 << 30));
        assert!(matches!(result, Err(HttpError::TimedOut { .. })), "{result:?}");
        thread.join().unwrap();
    }
}

#[test]
fn who_cancels_is_not_kept_waiting() {
    let (url, thread) = serve(vec![Box::new(|stream| {
        request(&stream);
        let _ = (&stream).read(&mut [0]);
    })]);
    let progress = Arc::new(Progress::new());
    let canceller = Arc::clone(&progress);
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        canceller.cancel();
    });
    let result = client(LONG).send(&Request::get(url), &progress);
    assert!(matches!(result, Err(HttpError::Cancelled(_))), "{result:?}");
    later.join().unwrap();
    thread.join().unwrap();
}

#[test]
fn where_nobody_listens_is_said() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = |url: &str| get(&client(LONG), &url.parse().unwrap()).unwrap_err();
    let refused = error(&format!("http://{free}/"));
    assert!(refused.to_string().starts_with(&format!("cannot connect to {free}: ")), "{refused}");
    assert!(matches!(error("http://nowhere.invalid/"), HttpError::UnknownHost { .. }));
    for no in ["file:///etc/passwd", "ftp://a/", "data:,a"] {
        assert!(matches!(error(no), HttpError::BadUrl { .. }), "{no}");
    }
}

#[test]
fn what_a_public_server_names_leads_to_no_private_place() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let url = format!("http://{host}:{}/", listener.local_addr().unwrap().port()).parse().unwrap();
        let request = Request { public: true, ..Request::get(url) };
        let result = client(LONG).send(&request, &Arc::new(Progress::new()));
        assert!(matches!(result, Err(HttpError::PrivateAddress { .. })), "{host}: {result:?}");
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "somebody has connected");
}
