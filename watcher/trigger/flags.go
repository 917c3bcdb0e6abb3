package trigger

// Flags is a set of flags, as pflag.FlagSet.
type Flags interface {
	BoolVar(p *bool, name string, value bool, usage string)
}

// AddFlags adds the flags of a Config, whose values are the defaults.
func (c *Config) AddFlags(flags Flags) {
	flags.BoolVar(&c.Evictions, "move-on-eviction", c.Evictions, "move a protected pod that is evicted, as by kubectl drain, and let whoever evicts it wait")
	flags.BoolVar(&c.SpotInterruptions, "move-on-spot-interruption", c.SpotInterruptions, "move all protected pods off a node that its cloud takes back")
	flags.BoolVar(&c.Cordons, "move-on-cordon", c.Cordons, "move all protected pods off a node that is cordoned, without waiting until they are evicted")
	flags.BoolVar(&c.Pressure, "move-on-pressure", c.Pressure, "move protected pods, one at a time, off a node that is short of memory, disk, processes or processor time")
}
