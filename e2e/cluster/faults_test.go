package cluster

import (
	"net/netip"
	"testing"
)

func TestFilterOf(t *testing.T) {
	api := []netip.Prefix{netip.MustParsePrefix("10.89.0.1/32")}
	for name, test := range map[string]struct {
		drops []Drop
		want  string
	}{
		"nothing": {nil, "add table netdev drop-n1\ndelete table netdev drop-n1\n"},
		"what the node sends": {[]Drop{{Direction: Sent}}, `add table netdev drop-n1
delete table netdev drop-n1
add table netdev drop-n1
add chain netdev drop-n1 ingress { type filter hook ingress device "n1" priority 0; }
add rule netdev drop-n1 ingress drop
add chain netdev drop-n1 egress { type filter hook egress device "n1" priority 0; }
`},
		"a port of one, and what some others send": {[]Drop{
			{With: api, Port: 6443},
			{Direction: Received, With: []netip.Prefix{netip.MustParsePrefix("10.89.0.12/32"), netip.MustParsePrefix("10.244.2.0/24")}},
		}, `add table netdev drop-n1
delete table netdev drop-n1
add table netdev drop-n1
add chain netdev drop-n1 ingress { type filter hook ingress device "n1" priority 0; }
add rule netdev drop-n1 ingress ip daddr { 10.89.0.1/32 } tcp dport 6443 drop
add chain netdev drop-n1 egress { type filter hook egress device "n1" priority 0; }
add rule netdev drop-n1 egress ip saddr { 10.89.0.1/32 } tcp sport 6443 drop
add rule netdev drop-n1 egress ip saddr { 10.89.0.12/32, 10.244.2.0/24 } drop
`},
	} {
		if got := filterOf("n1", test.drops); got != test.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, test.want)
		}
	}
}
