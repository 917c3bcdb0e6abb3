package preflight

// Reason is one word for what is in the way.
type Reason string

// Reasons for which a pod cannot be checkpointed, or could not be restored.
const (
	Terminal          Reason = "Terminal"
	HostProcesses     Reason = "HostProcesses"
	SharedProcesses   Reason = "SharedProcesses"
	HostNetwork       Reason = "HostNetwork"
	UserNamespace     Reason = "UserNamespace"
	RootFilesystem    Reason = "RootFilesystem"
	ForeignMount      Reason = "ForeignMount"
	IOUring           Reason = "IOUring"
	Userfaultfd       Reason = "Userfaultfd"
	PerfEvent         Reason = "PerfEvent"
	BPF               Reason = "BPF"
	VirtualMachine    Reason = "VirtualMachine"
	SecretMemory      Reason = "SecretMemory"
	UnknownDescriptor Reason = "UnknownDescriptor"
	Device            Reason = "Device"
	DeletedFile       Reason = "DeletedFile"
	FileWatch         Reason = "FileWatch"
	NestedNamespace   Reason = "NestedNamespace"
	Traced            Reason = "Traced"
	StoppedProcess    Reason = "StoppedProcess"
	MessageQueue      Reason = "MessageQueue"
	ProcessHandle     Reason = "ProcessHandle"
	MPTCP             Reason = "MPTCP"
	UnsupportedSocket Reason = "UnsupportedSocket"
	OutsideSocket     Reason = "OutsideSocket"
	SharedSegment     Reason = "SharedSegment"
	UnreadableLimits  Reason = "UnreadableLimits"
	OtherRuntimeClass Reason = "OtherRuntimeClass"
	WrongAnnotation   Reason = "WrongAnnotation"
)

// Reasons that cost something, or that programs notice after a restore.
const (
	ForeignProcess  Reason = "ForeignProcess"
	OpenConnections Reason = "OpenConnections"
	PacketSocket    Reason = "PacketSocket"
	PendingMessages Reason = "PendingMessages"
	NetworkFiles    Reason = "NetworkFiles"
	NetworkLock     Reason = "NetworkLock"
	HugePages       Reason = "HugePages"
	SharedMemory    Reason = "SharedMemory"
	HostIPC         Reason = "HostIPC"
	WritableVolume  Reason = "WritableVolume"
)
