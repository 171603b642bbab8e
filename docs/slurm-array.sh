#!/bin/bash
# A corpus by a Slurm array: each task makes every N-th range. GOOD, BAD, PROMPTS and OUT come from
# the environment: export them, then
#     job=$(sbatch --parsable docs/slurm-array.sh)
#     sbatch --dependency="afterok:$job" --wrap "cdgen finalize $OUT"
#SBATCH --job-name=cdgen
#SBATCH --array=0-15
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

# Two minutes before the time is over, and when the task is preempted, the command commits what it
# can and ends with exit code 75. The task then queues again and goes on.
cdgen generate --good "$GOOD" --bad "$BAD" --prompts "$PROMPTS" --out "$OUT" \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" &
trap 'kill -USR1 $!' USR1 TERM
wait $!
code=$?
while kill -0 $! 2>/dev/null; do # a signal ends `wait` before the command has ended
    wait $!
    code=$?
done
if [ "$code" -eq 75 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
