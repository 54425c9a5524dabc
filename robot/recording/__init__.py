"""robot/recording/: episodes of a robot on the disk, each of them safe as soon as it is finished."""
