package main

// broken is a protocol with one deliberate fault. The simulator must find each.
type broken struct {
	noDrift        bool
	countEarly     bool
	revive         bool
	ignorePromises bool
	forgetPromises bool
	peersUnsettled bool
	refuteAnyway   bool
	noWait         bool
	trustKubelet   bool
	checkFirst     bool
	pollSeldom     bool
	otherBoot      bool
}

// variant is a broken protocol by its name.
type variant struct {
	name, meaning string
	broken        broken
}

// variants are the broken protocols that can be played.
var variants = []variant{
	{"no-drift", "the watcher's wait leaves out the clocks' drift", broken{noDrift: true}},
	{"early-wait", "the wait counts from before the declaration was answered", broken{countEarly: true}},
	{"revive", "a node extends a permission that has run out", broken{revive: true}},
	{"ignore-promises", "the watcher does not wait for its peers' promises", broken{ignorePromises: true}},
	{"forget-promises", "a fencer that starts anew forgets what was promised", broken{forgetPromises: true}},
	{"unsettled-peers", "a node counts on peers that its record may not have yet", broken{peersUnsettled: true}},
	{"blind-refute", "a node's refutation is not compared with the record", broken{refuteAnyway: true}},
	{"no-wait", "a suspicion is enough to fence", broken{noWait: true}},
	{"trust-kubelet", "a container starts though nobody could say if the pod is still the node's", broken{trustKubelet: true}},
	{"check-first", "the leader looks if the node is fenced before it marks the pod, and deletes it whatever follows", broken{checkFirst: true}},
	{"poll-seldom", "a node that cannot read asks its peers only as often as it reads", broken{pollSeldom: true}},
	{"other-boot", "any other boot ID proves that the node has booted since, also an older one", broken{otherBoot: true}},
}
