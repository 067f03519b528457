package admin

// DiagnoseFleet is What of a request about the fleet.
const DiagnoseFleet = "fleet"

// DiagnoseRequest says what to diagnose.
type DiagnoseRequest struct {
	// What is an image as users write it, or a registry, to test the account, or
	// DiagnoseFleet.
	What string `json:"what"`
	// Organisation is as whom; empty: as nobody.
	Organisation string `json:"organisation,omitempty"`
	// Account is which of its accounts; empty: the one that a pull would use.
	Account string `json:"account,omitempty"`
	// Platform is what the image should run on, such as linux/arm64. Empty: the
	// node's.
	Platform string `json:"platform,omitempty"`
}
