//! Two rounds of a leader that is stopped, replaced and woken; the program `zombie` does twenty, and
//! shows that the check can fail.

use integration::binary;
use integration::zombie::{Wake, Zombies};

#[tokio::test]
async fn a_leader_that_slept_through_its_end_acks_nothing_that_is_lost() {
    let binary = binary::beside().unwrap();
    let mut zombies = Zombies::start(&binary, Wake::Cut, 1).await.unwrap();
    for _ in 0..2 {
        let round = zombies.round().await.unwrap();
        let found = (round.verdict.lost, round.verdict.doubled);
        assert_eq!(found, (0, 0), "{round}: {:?}", round.verdict.named);
        assert_eq!(round.broken, Vec::<String>::new(), "{round}");
    }
    zombies.end(false).await.unwrap();
}
