"""The sqitch project of the backend half: plan, deploy, verify and revert scripts. Data only."""
