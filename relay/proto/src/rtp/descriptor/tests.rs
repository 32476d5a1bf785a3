//! Descriptors that are written are read again, layer by layer.

use proptest::prelude::*;

use super::write::{DESCRIPTOR_LEN_MAX, Pattern};
use super::*;

const PATTERNS: [(u8, u8, bool); 12] = [
    (1, 1, false),
    (1, 2, false),
    (1, 3, false),
    (2, 1, false),
    (2, 2, false),
    (2, 3, false),
    (3, 1, false),
    (3, 3, false),
    (2, 1, true),
    (2, 3, true),
    (3, 2, true),
    (3, 3, true),
];

fn written(pattern: &Pattern, frame_number: u16, picture: u32, spatial: u8) -> Vec<u8> {
    let mut out = [0xee; DESCRIPTOR_LEN_MAX];
    let len = pattern.write(&mut out, frame_number, picture, spatial, (true, true));
    out[..len].to_vec()
}

/// The frames of the first pictures, in order, each with the number of its picture.
fn frames(pattern: &Pattern, structure: &Structure, pictures: u32) -> Vec<(u32, Frame)> {
    let layers = u16::from(pattern.spatial_layers());
    let number = |picture: u32, spatial: u8| {
        u16::try_from(picture).unwrap() * layers + u16::from(spatial) // the first frame is 0
    };
    (0..pictures)
        .flat_map(|picture| (0..pattern.spatial_layers()).map(move |spatial| (picture, spatial)))
        .map(|(picture, spatial)| {
            let value = written(pattern, number(picture, spatial), picture, spatial);
            (picture, structure.frame(&value).unwrap())
        })
        .collect()
}

#[test]
fn mandatory_fields_are_read() {
    let descriptor = Descriptor::parse(&[0x80 | 5, 0x12, 0x34]).unwrap();
    assert!(descriptor.start_of_frame && !descriptor.end_of_frame && !descriptor.is_key_frame());
    assert_eq!((descriptor.template_id, descriptor.frame_number), (5, 0x1234));
    assert!(Descriptor::parse(&[0x40, 0, 0]).unwrap().end_of_frame);
    assert_eq!(Descriptor::parse(&[0x80, 0]), None);
}

#[test]
fn a_descriptor_with_a_structure_is_a_key_frame_s() {
    assert!(Descriptor::parse(&[0xc0, 0, 1, 0x80, 0]).unwrap().is_key_frame());
    let other = Descriptor::parse(&[0xc0, 0, 1, 0x40, 0]).unwrap();
    assert!(other.active_decode_targets && !other.is_key_frame());
}

#[test]
fn a_frame_gets_another_number_in_place() {
    let mut value = [0xc5, 0, 1, 0x80, 9];
    write_frame_number(&mut value, 0xabcd);
    assert_eq!(value, [0xc5, 0xab, 0xcd, 0x80, 9]);
    let mut short = [0xc5, 0];
    write_frame_number(&mut short, 0xabcd);
    assert_eq!(short, [0xc5, 0]);
}

#[test]
fn every_layer_of_a_pattern_has_a_decode_target() {
    for (spatial, temporal, key_only) in PATTERNS {
        let pattern = Pattern::new(spatial, temporal, key_only).with_resolution(1280, 720);
        let structure = Structure::parse(&written(&pattern, 0, 0, 0)).unwrap();
        assert_eq!((structure.targets(), structure.spatial_layers()), (spatial * temporal, spatial));
        for (at, layers) in (0..spatial).flat_map(|s| (0..temporal).map(move |t| (s, t))).enumerate() {
            let target = u8::try_from(at).unwrap();
            assert_eq!(structure.layers(target), Some(layers));
            assert_eq!(structure.target(layers.0, layers.1), Some(target));
            assert_eq!(structure.protected_by(target), Some(layers.0));
        }
        assert_eq!(structure.layers(spatial * temporal), None);
        assert_eq!(structure.target(7, 7), Some(spatial * temporal - 1), "the best is within any bounds");
        assert_eq!(structure.resolution(spatial - 1), Some((1280, 720)));
        assert_eq!(structure.resolution(spatial), None);
        let smallest = (1280 >> (spatial - 1), 720 >> (spatial - 1));
        assert_eq!(structure.resolution(0), Some(smallest));
    }
}

#[test]
fn no_frame_of_a_decode_target_needs_one_that_is_not_of_it() {
    for (spatial, temporal, key_only) in PATTERNS {
        let pattern = Pattern::new(spatial, temporal, key_only);
        let structure = Structure::parse(&written(&pattern, 0, 0, 0)).unwrap();
        let frames = frames(&pattern, &structure, 13);
        for target in 0..structure.targets() {
            for (_, frame) in frames.iter().filter(|(_, frame)| frame.is_present(target)) {
                for fdiff in frame.fdiffs.as_slice() {
                    let (_, needed) = frames[usize::from(frame.frame_number - fdiff)];
                    assert!(needed.is_present(target), "{pattern:?}: {needed:?} for {frame:?}");
                    assert!(!needed.is_discardable(target), "{pattern:?}: {needed:?} for {frame:?}");
                }
            }
        }
    }
}

#[test]
fn after_a_switch_no_frame_of_the_target_needs_one_before_that_the_switch_itself_does_not_need() {
    for (spatial, temporal, key_only) in PATTERNS {
        let pattern = Pattern::new(spatial, temporal, key_only);
        let structure = Structure::parse(&written(&pattern, 0, 0, 0)).unwrap();
        let frames = frames(&pattern, &structure, 13);
        for target in 0..structure.targets() {
            let layers = structure.layers(target).unwrap();
            for (_, from) in frames.iter().filter(|(_, frame)| frame.is_switch(target)) {
                // Whoever gets the frames of this spatial layer up to there, with no temporal layer above the frame's,
                // gets all of the target from there on.
                let mut sent: Vec<u16> = frames
                    .iter()
                    .filter(|(_, frame)| frame.frame_number <= from.frame_number)
                    .filter(|(_, frame)| frame.temporal <= from.temporal && frame.spatial <= layers.0)
                    .map(|(_, frame)| frame.frame_number)
                    .collect();
                for (_, frame) in frames
                    .iter()
                    .filter(|(_, frame)| frame.frame_number > from.frame_number && frame.is_present(target))
                {
                    for fdiff in frame.fdiffs.as_slice() {
                        assert!(
                            sent.contains(&(frame.frame_number - fdiff)),
                            "{pattern:?}: {from:?} {frame:?}"
                        );
                    }
                    sent.push(frame.frame_number);
                }
            }
        }
    }
}

#[test]
fn chains_name_the_last_frame_that_a_target_cannot_do_without() {
    for (spatial, temporal, key_only) in PATTERNS {
        let pattern = Pattern::new(spatial, temporal, key_only);
        let structure = Structure::parse(&written(&pattern, 0, 0, 0)).unwrap();
        let frames = frames(&pattern, &structure, 13);
        for chain in 0..spatial {
            let mut last: Option<u16> = None;
            for (picture, frame) in &frames {
                let expected = last.map_or(0, |last| frame.frame_number - last);
                assert_eq!(frame.chain_fdiff(chain).map(u16::from), Some(expected), "{pattern:?} {frame:?}");
                let within =
                    if key_only && *picture > 0 { frame.spatial == chain } else { frame.spatial <= chain };
                if within && frame.temporal == 0 {
                    last = Some(frame.frame_number);
                }
            }
        }
        assert_eq!(frames[0].1.chain_fdiff(spatial), None);
    }
}

#[test]
fn key_pictures_alone_bring_the_structure_and_temporal_layers_follow_the_pattern() {
    let pattern = Pattern::new(2, 3, true);
    let structure = Structure::parse(&written(&pattern, 7, 0, 0)).unwrap();
    let frames = frames(&pattern, &structure, 9);
    assert!(frames.iter().all(|(_, frame)| frame.structure == (frame.frame_number == 0)));
    let temporal: Vec<u8> = frames.iter().step_by(2).map(|(_, frame)| frame.temporal).collect();
    assert_eq!(temporal, [0, 2, 1, 2, 0, 2, 1, 2, 0]);
    assert!((0..9).all(|picture| usize::from(pattern.temporal(picture)) < 3));
}

#[test]
fn the_largest_structure_fits_and_frames_that_follow_take_three_bytes() {
    let pattern = Pattern::new(2, 3, true).with_resolution(1280, 720);
    assert_eq!(written(&pattern, 0, 0, 0).len(), 49, "a browser's of this kind was seen at 50");
    let largest = Pattern::new(3, 3, false).with_resolution(1280, 720);
    assert!(written(&largest, 0, 0, 0).len() <= DESCRIPTOR_LEN_MAX);
    assert_eq!(written(&largest, 0, 1, 2).len(), 3);
}

#[test]
fn the_smallest_structure_is_written_bit_by_bit() {
    // Offset 0 and one target; two templates of one layer, both to switch at; the second needs the frame before; one
    // chain, which is the stream; no sizes.
    let written = written(&Pattern::new(1, 1, false), 0x0102, 0, 0);
    assert_eq!(written, [0xc0, 1, 2, 0b1000_0000, 0, 0b0011_1010, 0b0100_0001, 0b0000_0001, 0]);
}

#[test]
fn a_decode_target_without_frames_has_no_layers_and_is_never_the_best() {
    let mut out = [0; 16];
    let mut bits = bits::BitsWriter::new(&mut out);
    bits.write(0xc0_0000, 24);
    bits.write(0x10, 5);
    bits.write(1, 11); // offset 0, two targets
    bits.write(3, 2); // one template
    bits.write(0b00_10, 4); // of the second target
    bits.write(0, 1 + 2 + 1); // it needs nothing; no chains, no sizes
    let structure = Structure::parse(&out).unwrap();
    assert_eq!((structure.layers(0), structure.layers(1)), (None, Some((0, 0))));
    assert_eq!((structure.target(3, 7), structure.protected_by(1)), (Some(1), None));
}

#[test]
fn a_structure_is_known_again_and_another_is_not_read_as_it() {
    let (one, other) = (Pattern::new(1, 3, false), Pattern::new(2, 3, true).with_template_id_offset(60));
    let (one_value, other_value) = (written(&one, 1, 0, 0), written(&other, 2, 0, 0));
    let mut structure = Structure::default();
    assert_eq!(structure.frame(&one_value), None);
    assert!(structure.update(&one_value) && structure.is_brought_by(&written(&one, 99, 0, 0)));
    assert!(!structure.is_brought_by(&other_value) && structure.frame(&other_value).is_none());
    assert!(!structure.update(&written(&one, 2, 1, 0)), "it brings none");
    assert!(structure.is_brought_by(&one_value), "and so this one stays");
    assert!(structure.update(&other_value));
    assert_eq!(structure.frame(&written(&other, 5, 3, 1)).unwrap().temporal, 2, "numbers go round");
    assert!(!structure.update(&other_value[..20]));
    assert_eq!((structure.targets(), structure.frame(&other_value)), (0, None));
    assert_eq!(structure.frame(&written(&other, 5, 3, 1)), None);
}

#[test]
fn what_a_descriptor_says_itself_goes_before_its_template() {
    let pattern = Pattern::new(1, 2, false);
    let structure = Structure::parse(&written(&pattern, 0, 0, 0)).unwrap();
    let mut out = [0; 16];
    let mut bits = bits::BitsWriter::new(&mut out);
    bits.write(0b11_000001, 8);
    bits.write(9, 16);
    bits.write(0b0_1111, 5); // all but a structure
    bits.write(0b01, 2); // of two targets the first is active
    bits.write(0b11_00, 4); // required by it, not of the other
    bits.write(0b01, 2);
    bits.write(4, 4); // the frame five before
    bits.write(0b11, 2);
    bits.write(0xfff, 12); // and that 4096 before
    bits.write(0, 2);
    bits.write(200, 8);
    let len = bits.finish().unwrap();
    let frame = structure.frame(&out[..len]).unwrap();
    assert_eq!((frame.present, frame.switch, frame.discardable), (0b01, 0, 0));
    assert_eq!((frame.active, frame.chain_fdiff(0)), (Some(0b01), Some(200)));
    assert_eq!(frame.fdiffs.as_slice(), [5, 4096]);
    assert_eq!(structure.frame(&out[..len - 1]), None, "cut short");
}

#[test]
fn limits_of_the_specification_hold() {
    let structure = |write: &dyn Fn(&mut bits::BitsWriter<'_>)| {
        let mut out = [0; 255];
        let mut bits = bits::BitsWriter::new(&mut out);
        bits.write(0xc0_0000, 24);
        bits.write(0x10, 5);
        bits.write(0, 11); // offset 0, one target
        write(&mut bits);
        Structure::parse(&out)
    };
    assert!(structure(&|bits| bits.write(0b11, 2)).is_some());
    let templates = |count: usize| {
        structure(&|bits| {
            (1..count).for_each(|_| bits.write(0, 2));
            bits.write(3, 2);
        })
    };
    assert!(templates(TEMPLATES_MAX).is_some() && templates(TEMPLATES_MAX + 1).is_none());
    let layers = |idc, count: usize| {
        structure(&|bits| {
            (1..count).for_each(|_| bits.write(idc, 2));
            bits.write(3, 2);
        })
    };
    assert!(layers(1, TEMPORAL_MAX).is_some() && layers(1, TEMPORAL_MAX + 1).is_none());
    assert!(layers(2, SPATIAL_MAX).is_some() && layers(2, SPATIAL_MAX + 1).is_none());
    let needs = |count: usize| {
        structure(&|bits| {
            bits.write(3, 2);
            bits.write(2, 2);
            (0..count).for_each(|_| bits.write(0b1_0000, 5));
        })
    };
    assert!(needs(FDIFFS_MAX).is_some() && needs(FDIFFS_MAX + 1).is_none());
}

proptest! {
    #[test]
    fn whatever_comes_is_read_or_refused(
        first in prop::collection::vec(any::<u8>(), 0..255),
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
        which in 0..PATTERNS.len(),
    ) {
        let (spatial, temporal, key_only) = PATTERNS[which];
        let mut structure = Structure::parse(&first).unwrap_or_default();
        for value in [first].iter().chain(&values) {
            let _ = structure.frame(value);
        }
        assert!(structure.update(&written(&Pattern::new(spatial, temporal, key_only), 0, 0, 0)));
        for value in &values {
            if let Some(frame) = structure.frame(value) {
                prop_assert_eq!(frame.present & frame.switch, frame.switch);
                prop_assert_eq!(frame.present & frame.discardable, frame.discardable);
                prop_assert!(u64::from(frame.present) < 1 << structure.targets());
            }
            structure.update(value);
        }
    }

    #[test]
    fn a_cut_structure_is_refused(which in 0..PATTERNS.len(), len in 0..DESCRIPTOR_LEN_MAX) {
        let (spatial, temporal, key_only) = PATTERNS[which];
        let value = written(&Pattern::new(spatial, temporal, key_only).with_resolution(640, 360), 0, 0, 0);
        prop_assume!(len < value.len());
        prop_assert_eq!(Structure::parse(&value[..len]), None);
    }
}
