//! A proxy before a server that answers each line with the same line.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::*;

/// Longest time for anything that should happen soon.
const SOON: Duration = Duration::from_secs(20);

/// How long is listened where nothing is to be heard.
const QUIET: Duration = Duration::from_millis(150);

/// A server that echoes lines, and the proxy before it.
struct Ground {
    proxy: Proxy,
    _server: JoinSet<()>,
}

async fn ground() -> Ground {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let (from, mut to) = stream.into_split();
                let mut lines = BufReader::new(from).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if to.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ground {
        proxy: Proxy::before(&address, Speech::Bytes).await.unwrap(),
        _server: server,
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    async fn of(proxy: &Proxy) -> Self {
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        Self(BufReader::new(stream))
    }

    async fn say(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.0.get_mut().write_all(line.as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).await?;
        Ok(line)
    }

    async fn hears(&mut self, expected: &str) {
        let heard = timeout(SOON, self.hear()).await.expect("hears").unwrap();
        assert_eq!(heard.trim_end(), expected);
    }

    async fn hears_nothing(&mut self) {
        let mut byte = [0; 1];
        let heard = timeout(QUIET, self.0.read(&mut byte)).await;
        assert!(heard.is_err(), "{heard:?}");
    }
}

#[tokio::test]
async fn what_is_held_waits_and_goes_on_where_it_stood() {
    for way in [Way::ToServer, Way::ToClient, Way::Both] {
        let ground = ground().await;
        let mut before = Client::of(&ground.proxy).await;
        before.say("one").await;
        before.hears("one").await;
        ground.proxy.order(Order::Hold(way));
        let mut after = Client::of(&ground.proxy).await;
        for client in [&mut before, &mut after] {
            client.say("two").await;
            client.hears_nothing().await;
        }
        ground.proxy.order(Order::Pass);
        for client in [&mut before, &mut after] {
            client.say("three").await;
            client.hears("two").await;
            client.hears("three").await;
        }
    }
}

#[tokio::test]
async fn a_cut_ends_what_is_open_and_nothing_later() {
    for how in [Cut::Reset, Cut::Close] {
        let ground = ground().await;
        let mut open = Client::of(&ground.proxy).await;
        open.say("one").await;
        open.hears("one").await;
        ground.proxy.cut(how);
        let heard = timeout(SOON, open.hear()).await.expect("hears the end");
        match how {
            Cut::Reset => assert_eq!(heard.unwrap_err().kind(), ErrorKind::ConnectionReset),
            Cut::Close => assert_eq!(heard.unwrap(), ""),
        }
        let mut later = Client::of(&ground.proxy).await;
        later.say("two").await;
        later.hears("two").await;
    }
}

#[tokio::test]
async fn who_refuses_takes_nobody_and_takes_all_again() {
    let ground = ground().await;
    let mut open = Client::of(&ground.proxy).await;
    open.say("one").await;
    open.hears("one").await;
    ground.proxy.order(Order::Refuse);
    let refused = crate::wait::until("connections are refused", SOON, || async {
        match TcpStream::connect(ground.proxy.address()).await {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => anyhow::bail!("{other:?}"),
        }
    });
    refused.await.unwrap();
    open.say("two").await;
    open.hears("two").await;
    ground.proxy.order(Order::Pass);
    let taken = crate::wait::until("connections are taken", SOON, || async {
        Ok(TcpStream::connect(ground.proxy.address()).await?)
    });
    let mut later = Client(BufReader::new(taken.await.unwrap()));
    later.say("three").await;
    later.hears("three").await;
}

#[tokio::test]
async fn a_delay_is_paid_in_each_direction_and_keeps_the_order() {
    let ground = ground().await;
    let delay = Duration::from_millis(100);
    ground.proxy.order(Order::Delay(delay));
    let mut client = Client::of(&ground.proxy).await;
    let asked = Instant::now();
    for line in ["one", "two", "three"] {
        client.say(line).await;
    }
    for line in ["one", "two", "three"] {
        client.hears(line).await;
        assert!(asked.elapsed() >= 2 * delay);
    }
}

#[tokio::test]
async fn what_waits_is_bounded() {
    let ground = ground().await;
    ground.proxy.order(Order::Hold(Way::ToServer));
    let mut client = Client::of(&ground.proxy).await;
    let line = [b"x".repeat(flow::CHUNK - 1), b"\n".to_vec()].concat();
    let mut taken = 0;
    // Sockets of the loopback hold some MiB; whatever they hold, the proxy adds its queue and no more.
    while let Ok(written) = timeout(QUIET, client.0.get_mut().write(&line)).await {
        taken += written.unwrap();
        assert!(taken < 64 << 20, "{taken} bytes are taken");
    }
    assert!(taken >= PIECES * flow::CHUNK, "{taken} bytes are taken");
    ground.proxy.order(Order::Pass);
    let mut byte = [0; 1];
    let heard = timeout(SOON, client.0.read_exact(&mut byte)).await;
    heard.expect("goes on").unwrap();
}

#[tokio::test]
async fn the_end_of_one_direction_is_passed_on_and_the_answers_come() {
    let ground = ground().await;
    let mut client = Client::of(&ground.proxy).await;
    client.say("last").await;
    client.0.get_mut().shutdown().await.unwrap();
    client.hears("last").await;
    assert_eq!(timeout(SOON, client.hear()).await.unwrap().unwrap(), "");
}

#[tokio::test]
async fn connections_end_with_their_proxy() {
    let ground = ground().await;
    let mut client = Client::of(&ground.proxy).await;
    client.say("one").await;
    client.hears("one").await;
    drop(ground.proxy);
    let heard = timeout(SOON, client.hear()).await.expect("hears the end");
    assert!(heard.is_err() || heard.unwrap().is_empty());
}

/// A server that answers each request with the length of its body.
async fn http_server(tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tasks.spawn(async move {
        let app = |mut stream: BufReader<TcpStream>| async move {
            loop {
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                        return;
                    }
                    let line = line.trim_end().to_ascii_lowercase();
                    if let Some(value) = line.strip_prefix("content-length: ") {
                        length = value.parse().unwrap();
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{length:08}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.spawn(app(BufReader::new(stream)));
        }
    });
    address
}

#[tokio::test]
async fn a_share_of_the_requests_fails_and_the_others_pass_whole() {
    let mut tasks = JoinSet::new();
    let server = http_server(&mut tasks).await;
    let speech = Speech::Http(Random::seeded(7));
    let proxy = Proxy::before(&server, speech).await.unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/a", proxy.address());
    let counts = async |requests: usize| {
        let (mut passed, mut failed) = (0, 0);
        for request in 0..requests {
            let body = vec![b'x'; request * 1_000];
            let answer = client.put(&url).body(body).send().await.unwrap();
            match answer.status().as_u16() {
                200 => {
                    let heard = answer.text().await.unwrap();
                    assert_eq!(heard, format!("{:08}", request * 1_000));
                    passed += 1;
                }
                500 | 503 => failed += 1,
                other => panic!("{other}"),
            }
        }
        (passed, failed)
    };
    assert_eq!(counts(20).await, (20, 0));
    proxy.order(Order::Fail(20));
    let (passed, failed) = counts(200).await;
    assert!(
        (20..60).contains(&failed),
        "{failed} of {}",
        passed + failed
    );
    proxy.order(Order::Fail(100));
    assert_eq!(counts(5).await, (0, 5));
    proxy.order(Order::Pass);
    assert_eq!(counts(5).await, (5, 0));
}
