use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};

use super::{
    Bootstrap, LEVEL, Rng, ecdf, geometric_mean, least_squares, mad, median, normal_cdf, quantile,
    t_quantile,
};

fn close(a: f64, b: f64, tolerance: f64) {
    assert!(
        (a - b).abs() <= tolerance,
        "{a} is not within {tolerance} of {b}"
    );
}

#[test]
fn quantiles_are_those_of_type_seven() {
    let values = [7.0, 1.0, 3.0, 10.0];
    assert_eq!(median(&values), Some(5.0));
    // R: quantile(c(1,3,7,10), c(0, .25, .9, 1)) is 1, 2.5, 9.1, 10.
    assert_eq!(quantile(&values, 0.0), Some(1.0));
    assert_eq!(quantile(&values, 0.25), Some(2.5));
    close(quantile(&values, 0.9).unwrap(), 9.1, 1e-12);
    assert_eq!(quantile(&values, 1.0), Some(10.0));
    assert_eq!(median(&[]), None);
}

#[test]
fn the_median_absolute_deviation_ignores_one_outlier() {
    assert_eq!(mad(&[1.0, 2.0, 3.0, 4.0, 1e9]), Some(1.0));
    assert_eq!(mad(&[]), None);
}

#[test]
fn a_geometric_mean_of_a_zero_is_refused() {
    close(geometric_mean(&[2.0, 8.0]).unwrap(), 4.0, 1e-12);
    assert_eq!(geometric_mean(&[2.0, 0.0]), None);
    assert_eq!(geometric_mean(&[]), None);
}

#[test]
fn the_distribution_function_ends_at_one_and_joins_ties() {
    assert_eq!(
        ecdf(&[2.0, 1.0, 2.0, 4.0]),
        vec![(1.0, 0.25), (2.0, 0.75), (4.0, 1.0)]
    );
}

#[test]
fn students_quantiles_are_those_of_the_tables() {
    for (p, freedom, expected) in [
        (0.975, 1.0, 12.706_204_7),
        (0.975, 4.0, 2.776_445_1),
        (0.975, 9.0, 2.262_157_2),
        (0.995, 9.0, 3.249_835_5),
        (0.95, 30.0, 1.697_260_9),
        (0.975, 120.0, 1.979_930_4),
        (0.5, 7.0, 0.0),
        (0.025, 9.0, -2.262_157_2),
    ] {
        close(t_quantile(p, freedom), expected, 1e-6);
    }
}

#[test]
fn the_normal_distribution_is_that_of_the_tables() {
    for (x, expected) in [
        (0.0, 0.5),
        (1.0, 0.841_344_7),
        (-1.959_964, 0.025),
        (-3.0, 0.001_349_9),
    ] {
        close(normal_cdf(x), expected, 2e-7);
    }
}

#[test]
fn a_line_through_known_points_has_its_known_slope_and_interval() {
    // By hand: means 3 and 4.2, sxx 10, sxy 6; slope 0.6, intercept 2.4, residual sum 3.2.
    let line =
        least_squares(&[(1.0, 3.0), (2.0, 4.0), (3.0, 3.0), (4.0, 6.0), (5.0, 5.0)]).unwrap();
    close(line.slope, 0.6, 1e-12);
    close(line.intercept, 2.4, 1e-12);
    // Residuals 0, 0.4, -1.2, 1.2, -0.4: sum of squares 3.2; error sqrt(3.2/3/10); t(0.975, 3) = 3.182446.
    let reach = 3.182_446_3 * (3.2f64 / 3.0 / 10.0).sqrt();
    let interval = line.slope_interval.unwrap();
    close(interval.low, 0.6 - reach, 1e-6);
    close(interval.high, 0.6 + reach, 1e-6);
}

#[test]
fn a_line_needs_two_different_places() {
    assert_eq!(least_squares(&[]), None);
    assert_eq!(least_squares(&[(1.0, 2.0)]), None);
    assert_eq!(least_squares(&[(1.0, 2.0), (1.0, 3.0)]), None);
    let two = least_squares(&[(1.0, 2.0), (3.0, 6.0)]).unwrap();
    assert_eq!((two.slope, two.slope_interval), (2.0, None));
}

#[test]
fn the_generator_gives_the_published_sequence() {
    // The first outputs of SplitMix64 for the seed 1234567, as published with the xoshiro generators.
    let mut rng = Rng::new(1_234_567);
    assert_eq!(rng.next_u64(), 6_457_827_717_110_365_317);
    assert_eq!(rng.next_u64(), 3_203_168_211_198_807_973);
}

#[test]
fn the_same_seed_gives_the_same_interval_and_another_purpose_another_seed() {
    let values = [1.0, 1.2, 0.9, 1.1, 1.3, 0.95, 1.05, 1.15, 1.0, 1.1];
    let a = Bootstrap::of_values(&values, 7).unwrap().interval(LEVEL);
    let b = Bootstrap::of_values(&values, 7).unwrap().interval(LEVEL);
    assert_eq!(a, b);
    assert_ne!(
        Rng::derive(7, &["cpu.sha256", "vm"]),
        Rng::derive(7, &["cpu.sha256v", "m"])
    );
}

#[test]
fn a_single_round_has_no_interval() {
    assert_eq!(
        Bootstrap::of_values(&[1.0], 1).unwrap().interval(LEVEL),
        None
    );
    assert!(Bootstrap::of_values(&[], 1).is_none());
    assert!(Bootstrap::of_rounds(&[vec![1.0], vec![]], 1).is_none());
}

/// Draws one round's log ratio; its median is 0.
type Noise = fn(&mut Rng) -> f64;

#[test]
fn intervals_hold_the_truth_in_92_to_98_of_100_cases() {
    let shapes: [(&str, Noise); 4] = [
        ("normal", |r| r.normal()),
        ("heavy-tailed", |r| {
            let chi = (0..3).map(|_| r.normal().powi(2)).sum::<f64>();
            r.normal() / (chi / 3.0).sqrt()
        }),
        ("contaminated", |r| {
            let scale = if r.unit() < 0.15 { 6.0 } else { 1.0 };
            scale * r.normal()
        }),
        ("two-sided exponential", |r| {
            (1.0 - r.unit()).ln() - (1.0 - r.unit()).ln()
        }),
    ];
    for (name, draw) in shapes {
        for rounds in [10, 20] {
            let mut rng = Rng::new(Rng::derive(5, &[name]));
            let cases = 400;
            let held = (0..cases)
                .filter(|case| {
                    let values: Vec<f64> = (0..rounds).map(|_| draw(&mut rng)).collect();
                    let interval = Bootstrap::of_values(&values, *case)
                        .and_then(|b| b.interval(LEVEL))
                        .unwrap();
                    interval.low <= 0.0 && 0.0 <= interval.high
                })
                .count();
            let share = held as f64 / cases as f64;
            assert!(
                (0.92..=0.98).contains(&share),
                "{name}, {rounds} rounds: held in {share}"
            );
        }
    }
}

proptest! {
    #[test]
    fn a_quantile_lies_among_the_values(values in prop::collection::vec(-1e12f64..1e12, 1..60), q in 0.0f64..=1.0) {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let found = quantile(&values, q).unwrap();
        let slack = (high - low) * 1e-12;
        prop_assert!(found >= low - slack && found <= high + slack);
    }

    #[test]
    fn a_median_moves_with_its_values(values in prop::collection::vec(1.0f64..1e6, 1..40), factor in 0.1f64..10.0) {
        let scaled: Vec<f64> = values.iter().map(|v| v * factor).collect();
        let (plain, scaled) = (median(&values).unwrap(), median(&scaled).unwrap());
        prop_assert!((scaled / (plain * factor) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn an_interval_is_ordered_lies_in_the_sample_and_widens_with_confidence(
        values in prop::collection::vec(-1e3f64..1e3, 2..25), seed: u64,
    ) {
        let bootstrap = Bootstrap::of_values(&values, seed).unwrap();
        let narrow = bootstrap.interval(0.8).unwrap();
        let wide = bootstrap.interval(0.99).unwrap();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        prop_assert!(narrow.low <= narrow.high);
        prop_assert!(wide.low <= narrow.low && narrow.high <= wide.high);
        prop_assert!(wide.low >= low - 1e-9 && wide.high <= high + 1e-9);
    }

    #[test]
    fn equal_rounds_give_an_interval_without_width(value in 0.001f64..1e9, rounds in 2usize..20, seed: u64) {
        let interval = Bootstrap::of_values(&vec![value; rounds], seed).unwrap().interval(LEVEL).unwrap();
        prop_assert_eq!((interval.low, interval.high), (value, value));
    }

    #[test]
    fn a_line_finds_back_an_exact_slope(slope in -1e6f64..1e6, intercept in -1e6f64..1e6) {
        let points: Vec<(f64, f64)> = [1.0, 2.0, 4.0, 8.0].iter().map(|x| (*x, intercept + slope * x)).collect();
        let line = least_squares(&points).unwrap();
        prop_assert!((line.slope - slope).abs() <= 1e-6 * (1.0 + slope.abs() + intercept.abs()));
    }
}
