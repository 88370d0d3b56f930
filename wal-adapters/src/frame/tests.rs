//! Golden bytes, round trips, and what decoding makes of damaged or foreign bytes.

use proptest::prelude::*;

use super::*;

fn term(epoch: u64, inc: u32) -> Term {
    Term { epoch, inc }
}

/// The frames whose bytes lie in testdata/, made by a program of its own.
fn golden() -> Vec<(&'static [u8], Frame)> {
    let claim = Frame {
        kind: FrameKind::Claim,
        incarnation: 0x1122_3344_5566_7788,
        term: term(3, 1),
        writer: 0xdead_beef_cafe_f00d,
        n: 0,
        prev: 7,
        prev_n: 0,
        payload: Bytes::new(),
    };
    let rows = Frame {
        kind: FrameKind::Rows,
        n: 1,
        prev: 9,
        payload: Bytes::from_static(b"rows of one group commit"),
        ..claim.clone()
    };
    let mark = Frame {
        kind: FrameKind::Mark,
        n: 2,
        prev: 10,
        prev_n: 1,
        ..claim.clone()
    };
    let seal = Frame {
        kind: FrameKind::Seal,
        term: term((1 << 32) + 3, 0xffff_fffe),
        n: 3,
        prev: u64::MAX,
        prev_n: 0x8000_0000_0000_0002,
        payload: Bytes::from_static(b"{}"),
        ..claim.clone()
    };
    vec![
        (include_bytes!("../../testdata/frame-1-claim.bin"), claim),
        (include_bytes!("../../testdata/frame-1-rows.bin"), rows),
        (include_bytes!("../../testdata/frame-1-mark.bin"), mark),
        (include_bytes!("../../testdata/frame-1-seal.bin"), seal),
    ]
}

#[test]
fn golden_bytes_decode_to_what_was_written() {
    for (bytes, frame) in golden() {
        assert_eq!(Frame::decode(&Bytes::from_static(bytes)), Ok(frame));
    }
}

#[test]
fn frames_encode_to_the_golden_bytes() {
    for (bytes, frame) in golden() {
        assert_eq!(frame.encode(), bytes);
        assert_eq!(frame.encoded_len(), bytes.len());
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    for (bytes, _) in golden() {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let refused = Frame::decode(&flipped.into());
            assert!(refused.is_err(), "bit {bit} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn every_cut_says_how_much_is_needed() {
    for (bytes, _) in golden() {
        for cut in 0..bytes.len() {
            let need = if cut < HEADER_BYTES {
                HEADER_BYTES
            } else {
                bytes.len()
            };
            let short = Frame::decode(&Bytes::from_static(&bytes[..cut]));
            assert_eq!(short, Err(FrameError::Short { need }), "cut at {cut}");
        }
    }
}

#[test]
fn a_well_summed_frame_of_unknown_shape_is_refused() {
    let (bytes, _) = golden().swap_remove(1);
    let resummed = |at: usize, value: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at] = value;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..64]), &bytes[68..]);
        bytes[64..68].copy_from_slice(&sum.to_le_bytes());
        Frame::decode(&bytes.into())
    };
    assert!(resummed(8, 1).is_ok());
    assert_eq!(resummed(4, 2), Err(FrameError::Version(2)));
    assert_eq!(resummed(4, 0), Err(FrameError::Version(0)));
    assert_eq!(resummed(5, 0), Err(FrameError::Damaged));
    assert_eq!(resummed(5, 5), Err(FrameError::Damaged));
    assert_eq!(resummed(6, 1), Err(FrameError::Damaged));
    assert_eq!(resummed(7, 1), Err(FrameError::Damaged));
    assert_eq!(resummed(63, 1), Err(FrameError::Damaged));
    assert_eq!(resummed(0, b'B'), Err(FrameError::Magic));
}

#[test]
fn the_longest_payload_fits_and_one_byte_more_is_refused() {
    let (_, frame) = golden().swap_remove(1);
    let sized = |bytes: usize| Frame {
        payload: vec![7; bytes].into(),
        ..frame.clone()
    };
    let longest = sized(PAYLOAD_BYTES_MAX);
    assert_eq!(Frame::decode(&longest.encode()), Ok(longest));
    let longer = sized(PAYLOAD_BYTES_MAX + 1);
    assert_eq!(Frame::decode(&longer.encode()), Err(FrameError::Damaged));
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let kind = prop_oneof![
        Just(FrameKind::Rows),
        Just(FrameKind::Mark),
        Just(FrameKind::Claim),
        Just(FrameKind::Seal),
    ];
    let numbers = (any::<[u64; 6]>(), any::<u32>());
    let payload = proptest::collection::vec(any::<u8>(), 0..300);
    (kind, numbers, payload).prop_map(|(kind, (numbers, inc), payload)| Frame {
        kind,
        incarnation: numbers[0],
        term: term(numbers[1], inc),
        writer: numbers[2],
        n: numbers[3],
        prev: numbers[4],
        prev_n: numbers[5],
        payload: payload.into(),
    })
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(frame in any_frame(), behind in any::<[u8; 9]>()) {
        let mut bytes = frame.encode().to_vec();
        bytes.extend_from_slice(&behind);
        prop_assert_eq!(Frame::decode(&bytes.into()), Ok(frame));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut framed = MAGIC.to_vec();
        framed.push(VERSION);
        framed.extend_from_slice(&bytes);
        prop_assert!(Frame::decode(&bytes.into()).is_err());
        prop_assert!(Frame::decode(&framed.into()).is_err());
    }
}
