//! The Metadata request over a plain socket: who is there, and who leads.
//!
//! Version 5 of the request, which every Kafka from 1.0 on answers. Never here: a client.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long one question may take.
const WITHIN: Duration = Duration::from_secs(5);

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What a broker knows of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's id.
    pub id: Option<String>,
    /// Brokers by number, with the address at which clients are told to find them.
    pub brokers: BTreeMap<i32, String>,
    /// Who leads partition 0 of each topic asked for; without those that nobody leads.
    pub leaders: BTreeMap<String, i32>,
}

/// Asks one broker.
pub async fn cluster(address: &str, topics: &[&str]) -> Result<Cluster> {
    let asked = tokio::time::timeout(WITHIN, ask(address, topics));
    let answer = asked
        .await
        .with_context(|| format!("{address} is silent"))?;
    decode(&answer.with_context(|| address.to_owned())?)
}

async fn ask(address: &str, topics: &[&str]) -> Result<Vec<u8>> {
    let mut request = Vec::new();
    request.extend(3_i16.to_be_bytes()); // Metadata
    request.extend(5_i16.to_be_bytes()); // version
    request.extend(1_i32.to_be_bytes()); // correlation
    put_text(&mut request, "integration");
    request.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        put_text(&mut request, topic);
    }
    request.push(0); // no topic is made by asking
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(&(request.len() as i32).to_be_bytes())
        .await?;
    stream.write_all(&request).await?;
    let length = stream.read_i32().await?;
    let length = usize::try_from(length)?;
    if length > ANSWER_BYTES_MAX {
        bail!("an answer of {length} bytes");
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn put_text(request: &mut Vec<u8>, text: &str) {
    request.extend((text.len() as i16).to_be_bytes());
    request.extend(text.as_bytes());
}

fn decode(answer: &[u8]) -> Result<Cluster> {
    let mut rest = Rest(answer);
    let (_correlation, _throttled_ms) = (rest.i32()?, rest.i32()?);
    let mut cluster = Cluster::default();
    for _ in 0..rest.i32()? {
        let number = rest.i32()?;
        let host = rest.text()?.unwrap_or_default();
        let port = rest.i32()?;
        let _rack = rest.text()?;
        cluster.brokers.insert(number, format!("{host}:{port}"));
    }
    cluster.id = rest.text()?;
    let _controller = rest.i32()?;
    for _ in 0..rest.i32()? {
        let _error = rest.i16()?;
        let name = rest.text()?.unwrap_or_default();
        rest.take(1)?; // whether it is Kafka's own
        for _ in 0..rest.i32()? {
            let _error = rest.i16()?;
            let (partition, leader) = (rest.i32()?, rest.i32()?);
            for _replicas_in_sync_or_offline in 0..3 {
                let brokers = usize::try_from(rest.i32()?)?;
                rest.take(brokers * 4)?;
            }
            if partition == 0 && leader >= 0 {
                cluster.leaders.insert(name.clone(), leader);
            }
        }
    }
    Ok(cluster)
}

/// What of an answer is not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes).context("a short answer")?;
        self.0 = rest;
        Ok(taken)
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.take(2)?.try_into()?))
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into()?))
    }

    fn text(&mut self) -> Result<Option<String>> {
        let Ok(length) = usize::try_from(self.i16()?) else {
            return Ok(None);
        };
        let text = self.take(length)?;
        Ok(Some(String::from_utf8_lossy(text).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_a_short_one_refused() {
        let mut answer = Vec::new();
        for number in [1_i32, 0, 1, 7] {
            answer.extend(number.to_be_bytes());
        }
        put_text(&mut answer, "h");
        answer.extend(9092_i32.to_be_bytes());
        answer.extend((-1_i16).to_be_bytes());
        put_text(&mut answer, "cluster");
        answer.extend(7_i32.to_be_bytes());
        answer.extend(1_i32.to_be_bytes());
        answer.extend(0_i16.to_be_bytes());
        put_text(&mut answer, "topic");
        answer.push(0);
        answer.extend(1_i32.to_be_bytes());
        answer.extend(0_i16.to_be_bytes());
        for number in [0_i32, 7, 1, 7, 1, 7, 0] {
            answer.extend(number.to_be_bytes());
        }
        let expected = Cluster {
            id: Some("cluster".to_owned()),
            brokers: [(7, "h:9092".to_owned())].into(),
            leaders: [("topic".to_owned(), 7)].into(),
        };
        assert_eq!(decode(&answer).unwrap(), expected);
        for length in 0..answer.len() {
            assert!(decode(&answer[..length]).is_err());
        }
    }
}
