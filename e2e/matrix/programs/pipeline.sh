# Shell pipelines with background jobs, a named pipe, and many short-lived
# processes. Files lie in /data, an emptyDir volume.
set -u
cd /data
export NONCE=$(</proc/sys/kernel/random/uuid)
mkfifo jobs.pipe
echo 0 >jobs
echo 0 >numbers
: >journal
: >faults

# The pipes between these three are full nearly always: the last one is the slowest.
count() {
	local n=0
	while :; do
		echo $((++n))
	done
}
verify() {
	local n check last=0
	while read -r n check; do
		((n == last + 1 && check == n * 7919 % 1000003)) || echo "$n $check came after $last" >>faults
		last=$n
		((n % 100)) && continue
		echo "$n" >numbers
		sleep 0.05
	done
	echo "the numbers end after $last" >>faults
}
count | awk '{ print $1, $1 * 7919 % 1000003; fflush() }' | verify &

# What clients send comes through the named pipe, goes into the journal and into
# the container's log.
work() {
	local job done=0
	while read -r job; do
		echo "job $job"
		echo $((++done)) >jobs
		((done % 20)) || sleep 0.1
	done
	echo "the jobs end after $done" >>faults
}
exec 4<>jobs.pipe # so that there is always a writer
work <jobs.pipe | tee -a journal &

# A file that is just being written anew is empty.
current() {
	local value=
	until read -r value <"$1"; do :; done
	echo "$value"
}

# One client's connection: a job is taken when it lies in the pipe.
serve() {
	echo "hello $NONCE"
	while read -r job; do
		echo "$job" >&3
		echo "taken $(current jobs) $(current numbers)"
	done 3>jobs.pipe
}
export -f current serve
socat TCP-LISTEN:7000,fork,reuseaddr EXEC:'bash -c serve' &
wait
