//! The order of samples within a round.

/// The order in which a round takes its samples: every arm once, then every arm again the other way round (A B B A), so
/// that a machine which drifts steadily during the round drifts alike for all. Which arm comes first turns from round
/// to round. An arm that may be sampled only once a round is sampled on the way there in even rounds and on the way back
/// in odd ones.
///
/// `twice[arm]` is whether the arm is sampled twice; `None` leaves it out.
pub(crate) fn of_round(round: u32, twice: &[Option<bool>]) -> Vec<usize> {
    let mut arms: Vec<(usize, bool)> = twice
        .iter()
        .enumerate()
        .filter_map(|(arm, twice)| twice.map(|twice| (arm, twice)))
        .collect();
    if arms.is_empty() {
        return Vec::new();
    }
    let first = round as usize % arms.len();
    arms.rotate_left(first);
    let even = round.is_multiple_of(2);
    let there = arms
        .iter()
        .filter(|(_, twice)| *twice || even)
        .map(|(arm, _)| *arm);
    let back = arms
        .iter()
        .rev()
        .filter(|(_, twice)| *twice || !even)
        .map(|(arm, _)| *arm);
    there.chain(back).collect()
}

/// Turns `arms` so that in as many generations as there are arms, each is once in every place.
pub(crate) fn turn(arms: &mut [usize], generation: usize) {
    if !arms.is_empty() {
        arms.rotate_left(generation % arms.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_as_many_generations_as_arms_each_has_been_in_every_place() {
        let mut seen = [[false; 4]; 4];
        for generation in 0..4 {
            let mut arms = [0, 1, 2, 3];
            turn(&mut arms, generation);
            for (place, arm) in arms.into_iter().enumerate() {
                seen[place][arm] = true;
            }
        }
        assert_eq!(seen, [[true; 4]; 4]);
        turn(&mut [], 3);
    }

    #[test]
    fn two_arms_go_a_b_b_a_and_take_turns_at_being_first() {
        assert_eq!(of_round(0, &[Some(true), Some(true)]), [0, 1, 1, 0]);
        assert_eq!(of_round(1, &[Some(true), Some(true)]), [1, 0, 0, 1]);
    }

    #[test]
    fn every_round_is_symmetric_so_a_steady_drift_cancels() {
        let arms = [Some(true); 5];
        for round in 0..7 {
            let order = of_round(round, &arms);
            for arm in 0..arms.len() {
                let places: Vec<usize> = (0..order.len()).filter(|&i| order[i] == arm).collect();
                assert_eq!(places.len(), 2);
                assert_eq!(
                    places[0] + places[1],
                    order.len() - 1,
                    "arm {arm} of {order:?}"
                );
            }
        }
    }

    #[test]
    fn an_arm_sampled_once_changes_sides_and_one_left_out_is_not_there() {
        let arms = [Some(true), Some(false), None, Some(true)];
        for round in 0..6 {
            let order = of_round(round, &arms);
            assert_eq!(order.iter().filter(|&&arm| arm == 1).count(), 1);
            assert!(!order.contains(&2));
            assert_eq!(order.len(), 5);
        }
        assert_eq!(of_round(0, &[Some(false), Some(true)]), [0, 1, 1]);
        assert_eq!(of_round(1, &[Some(true), Some(false)]), [0, 0, 1]);
        assert!(of_round(3, &[None]).is_empty());
    }
}
