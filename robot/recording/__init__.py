"""robot/recording/: records a robot's episodes to disk, each of them safe as soon as it is finished."""
